"""A whole train step explains in a screen: a ResNet in flax linen, small here; `python -m tests.explanation.resnet`
explains the ResNet-50 of the ImageNet at batch 32 and says what it took."""

import importlib.util

import pytest

from normbench import explain

needs_plugin = pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda13_plugin") is None, reason="needs the extra gpu-targets"
)
pytest.importorskip("flax")


@pytest.fixture(scope="module")
def report():
    from tests.explanation.resnet import train_step

    step, arguments = train_step(batch=8, pixels=64, stages=(1, 1), classes=16)
    return explain(step, *arguments, target="h200")


@needs_plugin
def test_it_prints_a_screen(report):
    assert len(report.launches) > 60
    lines = repr(report).splitlines()
    assert len(lines) < 60
    assert max(map(len, lines)) <= 150
    assert len(report.text(full=True).splitlines()) > len(report.launches)


@needs_plugin
def test_its_parts_sum_to_the_whole(report):
    for found in (report.by_scope(1), report.by_scope(2), report.by_source(), report.top(10_000)):
        assert found["bytes"].sum() == report.bytes
        assert found["launches"].sum() == len(report.launches)
    assert any("BatchNorm" in scope for scope in report.by_scope(3).index)


@needs_plugin
def test_what_was_donated_stays_donated(report):
    assert "input_output_alias={" in report.hlo.split("\n")[0]
