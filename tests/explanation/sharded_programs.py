"""Programs over several devices, each by the mesh that it is given, and what `explain` makes of them as JSON.

Run with eight forced CPU devices, under every JAX at hand.
"""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import normbench
from normbench.kernels import get
from tests.explanation.sent_by_text import sent_by_text

BF16, F32 = jnp.bfloat16, jnp.float32
ROWS, COLUMNS, CHANNELS, WIDTH = 512, 4096, 128, 4096
P = PartitionSpec


def rms_norm(x, weight):
    wide = x.astype(F32)
    return (wide * lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + 1e-5)).astype(x.dtype) * weight


def batch_norm(x, gamma, beta):
    wide = x.astype(F32)
    mean = wide.mean((0, 1, 2))
    variance = jnp.square(wide - mean).mean((0, 1, 2))
    return ((wide - mean) * lax.rsqrt(variance + 1e-5) * gamma + beta).astype(x.dtype)


def batch_norm_of_sums(x, gamma, beta):
    wide = x.astype(F32)
    mean, square = wide.mean((0, 1, 2)), jnp.square(wide).mean((0, 1, 2))
    return ((wide - mean) * lax.rsqrt(square - mean * mean + 1e-5) * gamma + beta).astype(x.dtype)


def loss(parameters, x):
    h = rms_norm(x, parameters["scale"])
    y = x + jax.nn.silu(h @ parameters["up"]) @ parameters["down"]
    return jnp.mean(jnp.square(y.astype(F32)))


WHOLE = P()


def array(shape, mesh=None, spec=WHOLE, dtype=BF16):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=None if mesh is None else NamedSharding(mesh, spec))


def absent(devices, axes):
    return normbench.mesh(devices, axes)


def of_cpus(devices, axes):
    return Mesh(np.array(jax.devices()).reshape(devices), axes)


def rms_arguments(mesh, axis):
    return array((ROWS, COLUMNS), mesh, P(None, axis)), array((COLUMNS,), mesh, P(axis))


def batch_arguments(mesh, axes):
    image = array((64, 8, 8, CHANNELS), mesh, P(axes))
    return image, *(array((CHANNELS,), mesh, dtype=F32) for _ in range(2))


def rms_by_shard_map(mesh, axis):
    def part(x, weight):
        wide = x.astype(F32)
        square = lax.pmean(jnp.mean(wide * wide, -1, keepdims=True), axis)
        return (wide * lax.rsqrt(square + 1e-5)).astype(x.dtype) * weight

    specs = P(None, axis), P(axis)
    return jax.shard_map(part, mesh=mesh, in_specs=specs, out_specs=P(None, axis))


def scanned(mesh, axis):
    """Three RMS norms one after the other, in a loop inside of a shard_map."""

    def part(x, weights):
        def step(x, weight):
            square = lax.pmean(jnp.mean(jnp.square(x), -1, keepdims=True), axis)
            return x * lax.rsqrt(square + 1e-5) * weight, None

        return lax.scan(step, x, weights)[0]

    return jax.shard_map(part, mesh=mesh, in_specs=(P(None, axis), P(None, axis)), out_specs=P(None, axis))


def fsdp(mesh, axis):
    """The gradient of an MLP whose weights are cut between devices, as is its batch."""
    parameters = {
        "scale": array((WIDTH,), mesh),
        "up": array((WIDTH, 4 * WIDTH), mesh, P(axis)),
        "down": array((4 * WIDTH, WIDTH), mesh, P(axis)),
    }
    gradient = jax.jit(jax.grad(loss), out_shardings=jax.tree.map(lambda leaf: leaf.sharding, parameters))
    return gradient, (parameters, array((2048 * mesh.size, WIDTH), mesh, P(axis)))


def by_in_shardings(mesh, axis):
    x, weight = rms_arguments(mesh, axis)
    jitted = jax.jit(rms_norm, in_shardings=(x.sharding, weight.sharding))
    return jitted, (array((ROWS, COLUMNS)), array((COLUMNS,)))


def x_by_rows(mesh):
    return NamedSharding(mesh, P("d"))


def pallas(x, weight):
    return get("rms_norm", "pallas_triton")(x, weight)


def programs():
    line, grid, many = absent(8, "d"), absent((2, 4), ("data", "model")), absent((8, 8), ("data", "model"))
    yield "rms 8", rms_norm, rms_arguments(line, "d")
    yield "rms 2x4", rms_norm, rms_arguments(grid, "model")
    yield "rms 64", rms_norm, rms_arguments(many, ("data", "model"))
    yield "batch 8", batch_norm, batch_arguments(line, "d")
    yield "batch 2x4", batch_norm, batch_arguments(grid, "data")
    yield "batch 64", batch_norm, batch_arguments(many, ("data", "model"))
    yield "sums 8", batch_norm_of_sums, batch_arguments(line, "d")
    yield "sums 64", batch_norm_of_sums, batch_arguments(many, ("data", "model"))
    yield "fsdp 8", *fsdp(line, "d")
    yield "fsdp 2x4", *fsdp(grid, "model")
    yield "fsdp 64", *fsdp(absent(64, "d"), "d")
    cpus = of_cpus((8,), ("d",))
    x, weight = rms_arguments(line, "d")
    yield "donated", jax.jit(rms_norm, donate_argnums=0), (x, weight)
    yield "out_shardings", jax.jit(rms_norm, out_shardings=NamedSharding(line, P("d"))), (x, weight)
    yield (
        "constraint",
        lambda x, weight: lax.with_sharding_constraint(rms_norm(x, weight), x_by_rows(line)),
        (x, weight),
    )
    yield "rms 8 of cpus", rms_norm, rms_arguments(cpus, "d")
    yield "rms 8 by in_shardings", *by_in_shardings(line, "d")
    yield "rms 8 of cpus by in_shardings", *by_in_shardings(cpus, "d")
    x, weight = array((ROWS, COLUMNS)), array((COLUMNS,))
    rows, weights = array((ROWS, COLUMNS), dtype=F32), array((3, COLUMNS), dtype=F32)
    for name, mesh in (("", line), (" of cpus", cpus)):
        yield f"shard_map 8{name}", rms_by_shard_map(mesh, "d"), (x, weight)
        yield f"scan 8{name}", scanned(mesh, "d"), (rows, weights)
    each = jax.shard_map(pallas, mesh=line, in_specs=(P("d"), P()), out_specs=P("d"), check_vma=False)
    yield "pallas 8", each, (array((ROWS, COLUMNS), line, P("d")), weight)
    of_each = jax.shard_map(pallas, mesh=cpus, in_specs=(P("d"), P()), out_specs=P("d"), check_vma=False)
    yield "pallas 8 of cpus", of_each, (array((ROWS, COLUMNS), cpus, P("d")), weight)
    yield "pallas alone", pallas, (array((ROWS, COLUMNS), line, P("d")), weight)
    yield "indivisible", rms_norm, (array((ROWS - 1, COLUMNS), line, P("d")), weight)
    yield "indivisible part", rms_by_shard_map(line, "d"), (array((ROWS, COLUMNS - 1)), array((COLUMNS - 1,)))
    summed = jax.shard_map(lambda x: lax.psum(x, "nobody"), mesh=line, in_specs=P("d"), out_specs=P())
    yield "no such axis", summed, (x,)


def fact(function, args):
    try:
        report = normbench.explain(function, *args, target="h200")
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    told = ["collective", "axes", "group_size", "wire_bytes", "asynchronous", "repetitions", "predicted_s"]
    launches = report.launches
    return {
        "devices": report.devices,
        "title": str(report).split("\n")[0],
        "launches": launches[["kind", "read_bytes", "write_bytes", "repetitions"]].values.tolist(),
        "collectives": report.collectives[told].to_dict("records"),
        "meanwhile": [list(one) for one in report.collectives["meanwhile"]],
        "text": sent_by_text(report.hlo),
        "bytes": report.bytes,
        "seconds": [report.predicted_range_s[0], report.predicted_s, report.predicted_range_s[1]],
        "aliases": "input_output_alias" in report.hlo.split("\n")[0],
        "sha256": report.compilation.hlo_sha256,
        "picture": report.picture.svg.count("over the link"),
    }


def beyond_this_machine():
    """A mesh of sixteen, on a machine that has eight CPU devices."""
    mesh = absent(16, "d")
    try:
        normbench.explain(rms_norm, *rms_arguments(mesh, "d"), target="cpu")
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


if __name__ == "__main__":
    wanted = sys.argv[1:]
    found = {name: fact(function, args) for name, function, args in programs() if not wanted or name in wanted}
    if not wanted:
        report = normbench.explain(rms_norm, *rms_arguments(of_cpus((8,), ("d",)), "d"), target="cpu")
        found["on cpus"] = {"collectives": report.collectives[["collective", "group_size"]].values.tolist()}
        found["beyond this machine"] = {"error": beyond_this_machine()}
    print(json.dumps(found))
