"""What `explain` once said wrongly of real sizes, with what is so. Nothing is allocated: only shapes are compiled."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest

from normbench import explain
from normbench.fusion.ptx import find_ptxas

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda13_plugin") is None, reason="needs the extra gpu-targets"
)

TABLE = (128256, 4096)


def array(*shape, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(shape, dtype)


def test_rows_added_to_a_donated_table_cost_what_they_are():
    """2,102 MB were said."""
    add = jax.jit(lambda table, ids, rows: table.at[ids].add(rows), donate_argnums=0)
    report = explain(add, array(*TABLE), array(64, dtype=jnp.int32), array(64, TABLE[1]))
    assert report.bytes == report.minimum_bytes == 3 * 64 * TABLE[1] * 2 + 64 * 4
    assert list(report.launches["kind"]) == ["update"]


def test_the_gradient_of_an_embedding_fills_and_then_adds_rows():
    """3,186 MB were said."""

    def gradient(table, ids, cotangent):
        return jax.vjp(lambda table: table[ids], table)[1](cotangent)[0]

    tokens = 2048
    report = explain(gradient, array(*TABLE), array(tokens, dtype=jnp.int32), array(tokens, TABLE[1]))
    assert report.bytes == TABLE[0] * TABLE[1] * 2 + 3 * tokens * TABLE[1] * 2 + tokens * 4


def test_float32_master_weights_are_no_promotion_but_a_wide_norm_is():
    """Beside bfloat16 gradients, float32 results were called promoted, and the minimum was too low for it."""

    def step(gradient, weights):
        return weights - 0.1 * gradient.astype(jnp.float32)

    report = explain(step, array(1024, 1024), array(1024, 1024, dtype=jnp.float32))
    assert report.minimum_bytes == report.bytes == 1024 * 1024 * (2 + 4 + 4)
    assert report.hints == ()
    wide = explain(lambda x, gamma: x * gamma, array(1024, 1024), array(1024, dtype=jnp.float32))
    assert wide.minimum_bytes == 1024 * 1024 * (2 + 2) + 4 * 1024
    assert [hint.split(":")[0] for hint in wide.hints] == ["dtype promotion"]


def test_products_in_a_row_are_not_consumers_of_what_comes_after_them():
    """Shortened names made an earlier launch the consumer of a later one."""
    x, w = array(512, 512), array(512, 512)
    reading = explain(lambda x, a, b: jax.nn.silu(jax.nn.silu(x @ a) @ b), x, w, w).compilation.reading
    assert reading.refusals
    assert all(consumer > one.producer for one in reading.refusals for consumer in one.consumers)


def test_machine_code_is_read_only_where_its_columns_are_asked_for(monkeypatch):
    from normbench.fusion.machine_code import assembly

    asked = []
    monkeypatch.setattr(assembly, "_code", lambda ptxas, known, file: asked.append(file) or {})
    report = explain(lambda x: jnp.tanh(x) + 3, array(1 << 12))
    assert report.hints is not None
    assert report.compilation.launch_rows(assembled=False)[0]["registers"] is None
    assert not asked
    report.compilation.launch_rows()
    assert report.predicted_s is None or repr(report)
    assert len(asked) == 1, "once for all columns and predictions"


@pytest.mark.skipif(find_ptxas() is None, reason="needs ptxas")
def test_registers_are_told_when_asked_for():
    (row,) = explain(lambda x: jnp.tanh(x) + 4, array(1 << 12)).compilation.launch_rows()
    assert 8 <= row["registers"] <= 255
    assert row["spill_bytes"] == 0


def test_few_blocks_are_named_with_both_numbers():
    report = explain(lambda x: x.sum(0), array(64, 1 << 17, dtype=jnp.float32), target="h200")
    blocks = {int(grid.split("x")[0]) for grid in report.launches["grid"] if grid}
    few = [hint for hint in report.hints if hint.startswith("few blocks")]
    assert bool(few) == any(count < 132 for count in blocks)
    wide = explain(lambda x: (x + 1, x.sum()), array(4096, 64, dtype=jnp.float32), target="h200")
    (hint,) = wide.hints
    assert "multiprocessors (132)" in hint
    assert "(64 blocks, 2.1 MB)" in hint


@pytest.mark.parametrize(
    ("function", "rows"),
    [
        (lambda x: x[:400] * 2 + x[200:600], 600),
        (lambda x: x[:400] * 2 + x[:600][200:], 600),
        (lambda x: x[::2] + x[1::2], 1000),
        (lambda x: sum(x[10 * place : 500 + 10 * place] for place in range(20)), 690),
    ],
)
def test_what_several_slices_read_is_read_once(function, rows):
    """800 rows were said of the first two, 1000 of the last."""
    report = explain(function, array(1000, 4096))
    result = jax.eval_shape(function, array(1000, 4096))
    assert report.bytes == report.minimum_bytes == (rows + result.shape[0]) * 4096 * 2
