"""What flows between launches adds up to what the launches read, and is told apart by where it comes from."""

import json

import jax
import jax.numpy as jnp
import pytest

from normbench import explain

_X = jax.ShapeDtypeStruct((8, 32, 32, 64), jnp.float32)
_C = jax.ShapeDtypeStruct((64,), jnp.float32)
_SIZE = 8 * 32 * 32 * 64 * 4


def _statistics(x, gamma):
    mean = jnp.mean(x, (0, 1, 2))
    variance = jnp.mean(jnp.square(x - mean), (0, 1, 2))
    return (x - mean) * jax.lax.rsqrt(variance + 1e-5) * gamma, mean


@pytest.mark.parametrize("target", ["h200", "cpu"])
def test_what_is_read_comes_from_arguments_and_launches(target):
    report = explain(_statistics, _X, _C, target=target)
    rows = report.compilation.launch_rows()
    written = set()
    results = []
    for row in rows:
        inputs = json.loads(row["inputs"])
        assert 0 <= row["read_bytes"] - sum(size for _, size in inputs) <= 16  # a constant is no flow
        assert {source for source, _ in inputs} <= {"x", "gamma"} | written
        written.add(row["index"])
        results += json.loads(row["results"])
    assert sorted(results) == [64 * 4, _SIZE]
    assert any(["x", _SIZE] in json.loads(row["inputs"]) for row in rows)


def test_refusals_name_the_launches_that_use_the_result():
    rows = explain(_statistics, _X, _C, target="h200").compilation.launch_rows()
    refused = [(row["index"], into) for row in rows for into, _ in json.loads(row["refused"])]
    assert refused
    for producer, consumers in refused:
        for consumer in consumers:
            assert producer in [source for source, _ in json.loads(rows[consumer]["inputs"])]


def test_a_notebook_gets_the_picture():
    report = explain(_statistics, _X, _C, target="h200")
    assert report.picture._repr_svg_().startswith("<svg ")
    assert "<svg " in report._repr_html_()


@pytest.mark.parametrize(
    "dtype", ["float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz", "float8_e4m3fnuz", "float8_e5m2fnuz"]
)
def test_every_float_of_eight_bits_is_a_float(dtype):
    """A result that is wider than it is a promotion, and the minimum is without it."""
    x = jax.ShapeDtypeStruct((1000,), dtype)
    report = explain(lambda x: x.astype(jnp.float32) + 1, x, target="cpu")
    assert report.minimum_bytes == 2 * 1000
    assert any(hint.startswith("dtype promotion") for hint in report.hints)
