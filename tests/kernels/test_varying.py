"""Variants inside of `jax.shard_map` as it is by default, where JAX tracks what differs from device to device.

It does so on a mesh of one device, too. The tests run in JAX's 64-bit mode.
"""

import importlib.util
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import normbench
from normbench import kernels
from normbench.kernels import Problem
from normbench.kernels.native import build

X = np.random.default_rng(0).standard_normal((2, 4, 6))
VECTORS = 1 + np.random.default_rng(1).random((4, 4))
ARGUMENTS = {
    "layer_norm": (VECTORS[:2, :1].repeat(6, 1), {}),
    "rms_norm": (VECTORS[:1, :1].repeat(6, 1), {}),
    "group_norm": (VECTORS[:2], {"groups": 2}),
    "instance_norm": (VECTORS[:2], {}),
    "batch_norm": (VECTORS, {}),
    "batch_norm_training": (VECTORS, {}),
    "local_response_norm": ((), {}),
}
NAMES = ("naive", "one_pass", "custom_vjp", "welford", "native")
CASES = [(operator, name) for operator in ARGUMENTS for name in NAMES if name in kernels.variants(operator)]


def in_shard_map(operator, name, out):
    """y of the variant, x divided and the parameters whole, as a function of them."""
    parameters, keywords = ARGUMENTS[operator]
    mesh = Mesh(np.array(jax.devices()[:1]), ("devices",))
    divided, whole = PartitionSpec("devices"), PartitionSpec()

    def y(*arrays):
        return jax.tree.leaves(kernels.get(operator, name)(*arrays, **keywords))[0]

    return jax.shard_map(y, mesh=mesh, in_specs=(divided, *[whole] * len(parameters)), out_specs=out)


@pytest.mark.parametrize(("operator", "name"), CASES)
def test_gradients_of_parameters_that_every_device_has(operator, name):
    if name == "native" and build.missing():
        pytest.skip(str(build.missing()))
    arrays = tuple(map(jnp.asarray, (X, *ARGUMENTS[operator][0])))

    def gradients(name):
        function = in_shard_map(operator, name, PartitionSpec("devices"))
        return jax.jit(jax.grad(lambda *arrays: (function(*arrays) ** 3).sum(), range(len(arrays))))(*arrays)

    for actual, expected in zip(gradients(name), gradients("naive"), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9)


SHAPES = {"layer_norm": (64, 1024), "rms_norm": (64, 1024)}
PALLAS = [(operator, name) for operator in ARGUMENTS for name in ("pallas_triton", "pallas_mosaic", "pallas_tpu")]


@pytest.mark.parametrize(("operator", "name"), [one for one in PALLAS if one[1] in kernels.variants(one[0])])
def test_a_kernel_of_the_part_of_each_device_has_gradients(operator, name):
    target = "v6e" if name == "pallas_tpu" else "h200"
    if importlib.util.find_spec("libtpu" if name == "pallas_tpu" else "jax_cuda13_plugin") is None:
        pytest.skip(f"needs the compiler for {target}")
    shape = SHAPES.get(operator, (64, 16, 16, 64))
    problem = Problem(operator, shape, "nc" if operator in SHAPES else "nhwc", "bfloat16", "float32")
    inputs = kernels.program(problem, name).inputs
    mesh = normbench.mesh(4 if target == "v6e" else 8, ("devices",), target=target)
    divided, whole = PartitionSpec("devices"), PartitionSpec()
    specs = (divided, *[whole] * (len(inputs) - 1))
    part = kernels.program(replace(problem, shape=(shape[0] // mesh.size, *shape[1:])), name).function

    def y_of(*own):
        return jax.tree.leaves(part(*own))[0]

    def loss(*arrays):
        return jax.shard_map(y_of, mesh=mesh, in_specs=specs, out_specs=divided)(*arrays).astype(jnp.float32).sum()

    places = [NamedSharding(mesh, spec) for spec in specs]
    placed = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=to) for x, to in zip(inputs, places, strict=True)]
    report = normbench.explain(jax.grad(loss, range(min(3, len(inputs)))), *placed, target=target)
    assert "pallas" in set(report.launches["kind"])
    assert set(report.collectives["collective"]) <= {"all-reduce"}


@pytest.mark.skipif(build.missing() is not None, reason=str(build.missing()))
def test_the_result_of_native_does_not_pass_for_the_same_on_all_devices():
    with pytest.raises(ValueError, match="out_specs"):
        in_shard_map("layer_norm", "native", PartitionSpec())(X, *ARGUMENTS["layer_norm"][0])
