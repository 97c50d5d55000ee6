"""`explain` on any function, and on bad input."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest

from normbench import explain
from normbench.errors import UserError
from normbench.fusion.isolation import CompileError
from normbench.schema import TABLES

needs_plugin = pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda13_plugin") is None, reason="needs the extra gpu-targets"
)


def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def softplus(x, y):
    return jax.nn.softplus(x) * y


@needs_plugin
@pytest.mark.parametrize("target", ["h200", "h100", "a100", "b200", "cpu"])
def test_an_elementwise_function_moves_the_minimum_on_every_target(target):
    report = explain(softplus, array(1000, 37), array(37), target=target)
    assert report.bytes >= report.minimum_bytes == 4 * (2 * 1000 * 37 + 37)
    assert list(report.launches.columns) == list(TABLES["launches"])
    assert report.launches["read_bytes"].sum() + report.launches["write_bytes"].sum() == report.bytes
    assert (report.predicted_s is None) == (target == "cpu")


@needs_plugin
def test_the_report_is_readable_as_text_and_as_html():
    report = explain(softplus, array(64, 64), array(64))
    text = repr(report)
    assert "softplus on h200" in text
    assert "traffic ratio 1.00" in text
    assert "predicted (not measured)" in text
    assert max(len(line) for line in text.splitlines()[:4]) <= 140
    assert "<table>" in report._repr_html_()
    assert report.hlo.startswith("HloModule")


@needs_plugin
def test_pytrees_jitted_functions_and_arrays_are_taken():
    @jax.jit
    def dense(parameters, x):
        return x @ parameters["w"] + parameters["b"]

    report = explain(dense, {"w": array(32, 16), "b": array(16)}, jnp.ones((8, 32)), target="a100")
    assert len(report.launches) >= 1
    assert report.target == "a100"


@needs_plugin
def test_an_input_that_is_only_sliced_costs_what_is_read():
    report = explain(lambda x: x[:, :1] * 2, array(4096, 1024))
    assert report.minimum_bytes == 4096 * 4 * 2
    assert report.traffic_ratio == pytest.approx(1.0)


@needs_plugin
def test_an_unused_input_costs_nothing():
    report = explain(lambda x, unused: x + 1, array(1024), array(1 << 20))
    assert report.minimum_bytes == 2 * 4 * 1024


@needs_plugin
def test_an_empty_array_has_no_ratio():
    assert explain(lambda x: x * 2, array(0, 4)).traffic_ratio is None


@needs_plugin
def test_a_loop_counts_with_its_repetitions():
    once = explain(lambda x: jnp.tanh(x), array(1 << 20))
    looped = explain(lambda x: jax.lax.fori_loop(0, 10, lambda _, y: jnp.tanh(y) * 1.5, x), array(1 << 20))
    assert looped.bytes >= 10 * once.bytes


@needs_plugin
def test_only_what_is_a_row_normalization_gets_its_hint():
    assert explain(lambda x: (x + 1, x.sum()), array(1024, 64)).hints == ()  # so small that few blocks are enough


@needs_plugin
def test_a_copy_is_no_transpose():
    (hint,) = explain(lambda x, update: x.at[:3].set(update), array(50_000, 64), array(3, 64)).hints
    assert hint.startswith("copy:")
    assert "donate" in hint


@needs_plugin
def test_float64_is_compiled_where_it_is_enabled():
    with jax.enable_x64(True):
        report = explain(lambda x: x * 2, jax.ShapeDtypeStruct((128,), jnp.float64))
    assert report.minimum_bytes == 2 * 8 * 128


@needs_plugin
def test_an_aborting_compiler_is_an_error_with_its_reason_and_the_next_call_works(monkeypatch):
    import normbench.fusion.isolation as isolation

    monkeypatch.setattr(isolation, "_compilers", {})
    # A pass without which XLA fails a check of its own, and aborts.
    monkeypatch.setenv("XLA_FLAGS", "--xla_disable_hlo_passes=tree-reduction-rewriter")
    with pytest.raises(CompileError) as caught:
        explain(lambda x: x.sum(), array(1 << 20))
    assert caught.value.status == "crashed"
    assert "SIGABRT" in caught.value.reason
    assert explain(lambda x: x + 1, array(8)).bytes == 64


@needs_plugin
def test_a_compiler_that_takes_too_long_is_ended():
    with pytest.raises(CompileError) as caught:
        explain(lambda x: x + 2, array(8), timeout_s=1e-6)
    assert caught.value.status == "timeout"


def test_an_unknown_target_is_named_with_what_is_allowed():
    with pytest.raises(UserError, match="unknown target 'v100'; allowed: cpu, gpu, h200"):
        explain(softplus, array(1), array(1), target="v100")


def test_a_missing_plugin_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setattr("normbench.fusion.targets.importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"normbench\[gpu-targets\]"):
        explain(softplus, array(1), array(1), target="h200")
