"""The commands that measure PyTensor: every call is checked and timed, and the page shows what was measured."""

import numpy as np
import pytest

from analysis.pages.pytensor import overhead as pytensor_overhead
from analysis.pages.pytensor import page as pytensor_page
from analysis.pages.pytensor import stack as pytensor_stack
from analysis.pages.pytensor.timing import read_csv, timed, write_csv
from normbench.study.clocks.sampling import StoppingRule

RULE = StoppingRule(minimum_samples=2, maximum_samples=2, relative_noise=1.0, time_limit_s=0.01)


def test_every_way_to_call_is_checked_and_timed():
    rows = pytensor_overhead.measure((3, 4), RULE, seed=0)
    ways = [(row["backend"], row["graph"], row["how"], row["arrays"]) for row in rows if row["clock"] == "wall"]
    assert len(set(ways)) == len(ways) == len(rows) / 2
    wanted = {"f(...)", "f(...) trusted", "f.vm.jit_fn(...)", "f(x) trusted; shared parameters"}
    for backend, arrays in (("pytensor jax", "numpy"), ("pytensor jax", "jax"), ("pytensor numba", "numpy")):
        found = {how for who, _, how, given in ways if (who, given) == (backend, arrays)}
        assert wanted - {"f.vm.jit_fn(...)"} <= found
    assert {who for who, _, how, _ in ways if how == "f.vm.jit_fn(...)"} == {"pytensor jax", "pytensor numba"}
    assert {"numpy", "jax", "pytensor jax", "pytensor numba", "pytensor c"} == {who for who, *_ in ways}
    assert all(row["median_us"] > 0 and row["max_rel"] < 1e-5 and row["samples"] >= 2 for row in rows)


def test_a_wrong_result_is_not_timed(monkeypatch):
    monkeypatch.setattr(pytensor_overhead, "_formula", lambda x, *_: x)
    monkeypatch.setattr(pytensor_overhead, "_pytensor_ways", lambda *_: ())
    with pytest.raises(AssertionError, match="relative error"):
        pytensor_overhead.measure((3, 4), RULE, seed=0)


def test_what_a_call_raises_is_raised():
    with pytest.raises(TypeError):
        timed({"bad": (lambda: None, (1,))}, RULE, 1, 0)


def test_a_stack_is_checked_and_timed(monkeypatch):
    value = np.arange(1.0, 5.0, dtype="float32")
    one = pytensor_stack.Stack("pytensor c", "unfused", "shared", lambda x: x + 1, (value,), 0.5)
    monkeypatch.setattr(pytensor_stack, "stacks", lambda size, backends: iter([one]))
    monkeypatch.setattr(pytensor_stack, "reference", lambda size: value.astype("float64") + 1)
    (row,) = pytensor_stack.measure(32, ("pytensor c",), RULE, seed=0)
    assert (row["backend"], row["form"], row["parameters"], row["compile_s"]) == (
        "pytensor c",
        "unfused",
        "shared",
        0.5,
    )
    assert row["median_us"] > 0
    assert row["max_rel"] < 1e-7
    monkeypatch.setattr(pytensor_stack, "reference", lambda size: value.astype("float64"))
    with pytest.raises(AssertionError, match="relative error"):
        pytensor_stack.measure(32, ("pytensor c",), RULE, seed=0)


def test_a_table_of_the_page(tmp_path):
    rows = [
        {"shape": "4x8", "backend": "jax", "graph": "formula", "how": "jax.jit", "arrays": "jax", "clock": clock,
         "process": process, "median_us": 10.0 * process + offset, "minimum_us": 7.0 + process}
        for process in (1, 2, 3) for clock, offset in (("wall", 0.5), ("pipelined", 0.0))
    ]  # fmt: skip
    write_csv(tmp_path / "overhead.csv", rows)
    table = pytensor_page.overhead_table(read_csv(tmp_path / "overhead.csv"), "4x8")
    assert table.splitlines()[-1] == "| jax | formula | jax.jit | jax | 20.5 | 20 | 8 |"
    text = pytensor_page.filled("a\n<!-- t -->\nold\n<!-- end -->\nb", {"t": lambda: table})
    assert text == f"a\n<!-- t -->\n\n{table}\n\n<!-- end -->\nb"
    with pytest.raises(ValueError, match="no marker"):
        pytensor_page.filled("text", {"t": lambda: table})


def test_the_page_shows_the_figures_of_the_results():
    text = pytensor_page.PAGE.read_text()
    assert pytensor_page.filled(text, pytensor_page.tables(pytensor_page.FOLDER)) == text


def test_folding_is_exact_in_float64():
    rng = np.random.default_rng(0)
    filters, (gamma, beta, mean), variance = (
        rng.normal(size=(3, 2, 1, 1)),
        rng.normal(size=(3, 3)),
        rng.uniform(1, 2, 3),
    )
    weights, bias = pytensor_stack.folded(filters, gamma, beta, mean, variance)
    x = rng.normal(size=(5, 2))
    y = x @ filters[:, :, 0, 0].T
    expected = (y - mean) / np.sqrt(variance + np.float32(pytensor_stack.EPSILON)) * gamma + beta
    np.testing.assert_allclose(x @ weights[:, :, 0, 0].T + bias, expected, rtol=1e-12)
