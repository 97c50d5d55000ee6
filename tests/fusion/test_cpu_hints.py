"""What a program for the CPU writes only for a library to read, and what it leaves to one thread, said in sentences."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from normbench import explain
from normbench.fusion.program.cpu_hints import cpu_hints

X = jax.ShapeDtypeStruct((1024, 2048), jnp.bfloat16)


def scaled(x, apart=False):
    wide = x.astype(jnp.float32)
    r = jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True))
    if apart:
        x, r = jax.lax.optimization_barrier((x, r))
    return (x.astype(jnp.float32) * r).astype(x.dtype)


def test_a_conversion_written_for_a_librarys_sum_is_told_and_a_barrier_takes_it_away():
    told = [hint for hint in explain(scaled, X, target="cpu").hints if hint.startswith("sum by a library")]
    if not told:
        pytest.skip("this JAX hands no sum to a library here")
    assert "8.4 MB are written" in told[0]
    assert "f32[1024,2048]" in told[0]
    parted = explain(lambda x: scaled(x, apart=True), X, target="cpu")
    assert not [hint for hint in parted.hints if hint.startswith("sum by a library")]


def launch(name, ops, read_bytes, write_bytes, reads=(), opcode="fusion", **config):
    instruction = SimpleNamespace(opcode=opcode, backend_config=json.dumps(config))
    return SimpleNamespace(
        name=name, ops=ops, read_bytes=read_bytes, write_bytes=write_bytes, reads=reads, instruction=instruction
    )


def program(*launches):
    return SimpleNamespace(launches=launches, nodes={0: SimpleNamespace(launch=0, shape="f32[8,8]")})


def test_a_broadcast_that_is_written_out_is_told():
    spread = launch("wrapped_broadcast", {"broadcast": 1}, 3_000, 12_000_000, outer_dimension_partitions=["2"])
    scaled_too = launch("scale", {"broadcast": 1, "multiply": 1}, 3_000, 12_000_000, outer_dimension_partitions=["2"])
    (hint,) = cpu_hints(program(spread, scaled_too))
    assert "12.0 MB that only repeat" in hint
    assert "scale" not in hint


def test_what_is_left_to_one_thread_is_told_and_small_or_anothers_work_is_not():
    small = launch("small", {"add": 1}, 1_000, 1_000)
    library = launch("sum", {"reduce": 1}, 9_000_000, 4_000, fusion_config={"kind": "__ynn_fusion"})
    kernel = launch("kernel", {}, 9_000_000, 4_000, opcode="custom-call")
    divided = launch("divided", {"add": 1}, 9_000_000, 9_000_000, outer_dimension_partitions=["2"])
    whole = launch("whole", {"add": 1}, 9_000_000, 9_000_000)
    (hint,) = cpu_hints(program(small, library, kernel, divided, whole))
    assert hint == "one thread: the compiler divides no work of whole (18.0 MB)"
