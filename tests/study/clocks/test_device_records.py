"""What the device's records become: calls, clocks and launches. The GPU traces here are synthetic, made by hand."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from normbench.study.clocks import device_records
from normbench.study.clocks.device_records import (
    Cupti,
    Record,
    Trace,
    calls_of,
    choose,
    device_kernels,
    device_span,
    disagreement,
)
from normbench.study.worker.attribution import launch_rows, measure


def event(name, start_us, duration_us, **stats):
    return SimpleNamespace(name=name, start_ns=start_us * 1e3, duration_ns=duration_us * 1e3, stats=stats.items())


def synthetic_gpu_trace(*events):
    """In the layout of a GPU's trace; no GPU recorded it."""
    other = SimpleNamespace(name="XLA Ops", events=[event("fusion_1", 0, 99, hlo_op="fusion_1")])
    stream = SimpleNamespace(name="Stream #7(Compute)", events=list(events))
    gpu = SimpleNamespace(name="/device:GPU:0", lines=[stream, other])
    host = SimpleNamespace(name="/host:CPU", lines=[SimpleNamespace(name="python", events=[event("call", 0, 500)])])
    return SimpleNamespace(planes=[host, gpu])


TWO_CALLS = synthetic_gpu_trace(
    event("MemcpyH2D", 8, 1),
    event("fusion_1", 10, 4, hlo_op="fusion.1", run_id=1),
    event("fusion_2", 20, 6, hlo_op="fusion.2", run_id=1),
    event("Memset", 27, 1),
    event("fusion_1", 40, 5, hlo_op="fusion.1", run_id=2),
    event("fusion_2", 45, 7, hlo_op="fusion.2", run_id=2),
)


def test_a_trace_is_split_into_its_calls():
    assert [[record.hlo_name for record in call] for call in calls_of(TWO_CALLS, 2)] == [
        [None, "fusion.1", "fusion.2", None],
        ["fusion.1", "fusion.2"],
    ]


def test_a_trace_that_names_no_runs_is_split_evenly():
    events = [event(f"k{number % 2}", 10 * number, 1, hlo_op=f"f.{number % 2}") for number in range(6)]
    calls = calls_of(synthetic_gpu_trace(*events), 3)
    assert [[record.hlo_name for record in call] for call in calls] == [["f.0", "f.1"]] * 3
    assert calls_of(synthetic_gpu_trace(*events), 4) == []


def test_gaps_count_in_the_span_and_not_in_the_sum():
    call = (Record("a", "a", 10e-6, 4e-6), Record("b", "b", 20e-6, 6e-6))
    assert device_kernels(call) == pytest.approx(10e-6)
    assert device_span(call) == pytest.approx(16e-6)


def test_copies_and_memsets_count_in_the_span_and_not_in_the_sum():
    call = (Record("a", "a", 10e-6, 4e-6), Record("Memset", None, 15e-6, 5e-6, "memset"))
    assert device_kernels(call) == pytest.approx(4e-6)
    assert device_span(call) == pytest.approx(10e-6)


def test_without_starts_there_is_no_span():
    assert device_span((Record("a", None, None, 1e-6),)) is None


def test_samples_are_joined_to_the_instruction_that_they_belong_to():
    calls = [(Record("k", "f", 0.0, 1e-6), Record("l", "f", 2e-6, 2e-6), Record("k", "g", 5e-6, 4e-6))]
    rows = {row["name"]: (row["seconds"], row["kernels"]) for row in launch_rows(calls)}
    assert rows == {"f": (pytest.approx(3e-6), "k,l"), "g": (pytest.approx(4e-6), "k")}


def fake_cupti(kernels):
    """The interface of CUPTI, which here has recorded `kernels`; no GPU did."""
    log = []

    def stop():
        log.append("stop")
        return kernels

    return Cupti((lambda: log.append("start"), stop)), log


def test_cupti_gives_names_and_lengths():
    cupti, log = fake_cupti([("fusion_1", 0.004), ("memset32", 0.001)] * 2)
    calls = cupti.record(lambda x: log.append(x), [(1,), (2,)])
    assert log == ["start", 1, 2, "stop"], "no call in between may fill the caches with the inputs of the next"
    assert [[record.name for record in call] for call in calls] == [["fusion_1", "memset32"]] * 2
    assert [device_kernels(call) for call in calls] == [pytest.approx(4e-6)] * 2


@pytest.mark.parametrize(
    "kernels", [[], [("a", 0.1)], [("a", 0.1)] * 3, [("a", 0.1), ("b", 0.1), ("b", 0.1), ("b", 0.1)]]
)
def test_kernels_that_cannot_be_told_apart_by_call_are_refused(kernels):
    with pytest.raises(RuntimeError, match="CUPTI recorded"):
        fake_cupti(kernels)[0].record(lambda x: x, [(1,), (2,)])


def test_cupti_is_let_go_of_when_a_call_raises():
    cupti, log = fake_cupti([])
    with pytest.raises(ZeroDivisionError):
        cupti.record(lambda x: 1 / x, [(0,)])
    assert log == ["start", "stop"]


def test_a_missing_cupti_falls_back_and_says_so():
    def broken():
        raise ImportError("no CUPTI here")

    source, refused = choose(lambda source: None, (broken, Trace))
    assert source.name == "trace"
    assert len(refused) == 1
    assert "no CUPTI here" in refused[0]


def test_without_any_source_each_is_named():
    def refuse(source):
        raise RuntimeError(f"{source.name} is denied")

    with pytest.raises(RuntimeError, match="trace is denied"):
        choose(refuse, (Trace,))


def test_sources_that_disagree_are_found_out():
    near = [(Record("k", None, None, 10.2e-6),)]
    far = [(Record("k", None, None, 12e-6),)]
    two = [(Record("k", None, None, 5e-6), Record("l", None, None, 5e-6))]
    one = [(Record("k", "k", 0.0, 10e-6),)]
    assert disagreement(one, near) is None
    assert "us of kernels" in disagreement(one, far)
    assert "kernels per call" in disagreement(one, two)


def test_a_cpus_trace_names_every_instruction_in_every_call():
    def function(x):
        return jnp.sort(x * 2, axis=-1) + 1

    x = jnp.arange(4096.0).reshape(64, 64)
    compiled = jax.jit(function).lower(x).compile()
    rows = measure(Trace(), compiled, (x,), calls=3)
    assert {row["sample"] for row in rows} == {0, 1, 2}
    names = {row["name"] for row in rows}
    text = compiled.as_text()
    assert names
    assert all(f"%{name} =" in text for name in names)
    assert all(row["seconds"] > 0 for row in rows)


def test_what_makes_the_inputs_is_no_call():
    call = jax.jit(lambda x: x * 2).lower(jnp.zeros((1024, 1024))).compile()
    for number in range(5):
        busy = [(jnp.sort(jnp.full((1024, 1024), float(number))),)]  # still on its way
        assert len(Trace().record(call, busy)) == 1


def test_what_is_missing_is_said_in_sentences(monkeypatch):
    monkeypatch.setattr(device_records, "gpu_present", lambda: False)
    assert any("no NVIDIA GPU" in sentence for sentence in device_records.missing())
