"""Prints, as JSON, what `explain` makes of arguments and programs of every kind; run under every JAX at hand."""

import json

import jax
import jax.numpy as jnp
import numpy as np

from normbench import explain
from normbench.fusion.isolation import CompileError
from tests.explanation.programs import BF16, Dense, array, attention_arguments, attention_output

X = array(8, 16, dtype=BF16)


def scaled(x, y):
    return x * y


def programs():
    mesh, both = (
        jax.make_mesh((count,), ("d",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:count])
        for count in (1, 2)
    )
    axis = jax.sharding.PartitionSpec("d")
    per_device = jax.shard_map(lambda x: x + jax.lax.psum(x, "d"), mesh=mesh, in_specs=axis, out_specs=axis)
    shape = jax.ShapeDtypeStruct((8, 16), np.float32)
    yield "weak", scaled, (X, jnp.asarray(0.1))
    yield "donated", jax.jit(scaled, donate_argnums=0), (X, X)
    yield "module", Dense(array(16, 4), jax.nn.relu), (array(8, 16),)
    yield "key", lambda key: jax.random.normal(key, (4,)), (jax.eval_shape(lambda: jax.random.key(0)),)
    yield "shard_map", per_device, (X,)
    yield "two devices", scaled, (array(8, sharding=jax.sharding.NamedSharding(both, axis)), 2.0)
    yield "float64", scaled, (X, array(dtype=np.float64))
    yield "callback", lambda x: jax.pure_callback(np.sin, shape, x), (array(8, 16),)
    yield "in a loop", lambda x: jax.lax.map(lambda y: (jax.debug.print("{}", y), y)[1], x), (X,)
    yield "custom call", lambda x: jax.ffi.ffi_call("of_somebody_else", shape)(x), (array(8, 16),)
    yield "too large", lambda x: x * 2, (array(2**21, 2**21),)
    yield "attention", attention_output, attention_arguments()


def fact(function, args):
    try:
        report = explain(function, *args, target="h200")
    except (ValueError, CompileError) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    head = report.hlo.split("\n")[0]
    return {"head": head, "notes": report.notes, "lines": len(repr(report).splitlines()), "bytes": report.bytes}


if __name__ == "__main__":
    found = {name: fact(function, args) for name, function, args in programs()}
    print(json.dumps({"jax": jax.__version__, "facts": found}))
