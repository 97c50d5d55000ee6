"""The series of the device's clocks. A fake source stands for the device, with made-up records; no GPU made them."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from normbench.cases.case import Case
from normbench.kernels import Problem
from normbench.kernels.pallas.triton.rows_config import forward_config
from normbench.kernels.pallas.tuning import problem_key, tuned
from normbench.schema import TABLES
from normbench.study.clocks.ceiling import Ceilings
from normbench.study.clocks.device import CALLS, DeviceClocks
from normbench.study.clocks.device_records import Cupti, Record, Trace, device_span
from normbench.study.clocks.launch_cost import _chain, measure_launches, programs
from normbench.study.clocks.memory import Rotation
from normbench.study.clocks.sampling import StoppingRule
from normbench.study.clocks.throttle import Reading
from normbench.study.schedule.units import measure_units
from normbench.study.worker import bench as worker_bench
from normbench.study.worker import measure as worker_measure
from normbench.study.worker.bench import Bench
from normbench.study.worker.measure import Measurement

RULE = StoppingRule(minimum_samples=3, maximum_samples=5, relative_noise=0.1, time_limit_s=0.01)
SMALL = Problem("batch_norm", (8, 16, 32, 32))


class FakeSource:
    """Two kernels of 3 us each with a gap of 4 us and a copy of 1 us after them, whatever is called."""

    def __init__(self, name="trace", starts=True, kernel_s=3e-6, copy=True):
        self.name, self.starts, self.kernel_s, self.copy = name, starts, kernel_s, copy
        self.seen = []

    def record(self, call, input_sets):
        for inputs in input_sets:
            jax.block_until_ready(call(*inputs))
        self.seen.append(list(input_sets))
        start = 0.0 if self.starts else None
        second = self.kernel_s + 4e-6 if self.starts else None
        third = 2 * self.kernel_s + 4e-6 if self.starts else None
        records = [Record("k1", "f.1", start, self.kernel_s), Record("k2", "f.2", second, self.kernel_s)]
        records += [Record("MemcpyD2D", None, third, 1e-6, "copy")] if self.copy else []
        return [tuple(records)] * len(input_sets)


def rotation_of(count):
    return Rotation([(np.full(4, number),) for number in range(count)], 0, lambda: None)


def numbers(sets):
    return [int(inputs[0][0]) for inputs in sets]


def by_place(series):
    return {(one.clock, one.cache): one for one in series}


def test_gaps_and_copies_count_in_the_span_and_not_in_the_sum():
    source = FakeSource()
    found, differ = DeviceClocks(source, source).series("case", lambda x: x, rotation_of(20))
    places = by_place(found)
    assert set(places) == {(c, k) for c in ("device_kernels", "device_span") for k in ("cold", "warm")}
    assert places["device_kernels", "cold"].seconds == pytest.approx([6e-6] * CALLS)
    assert places["device_span", "warm"].seconds == pytest.approx([11e-6] * CALLS)
    assert not any(one.running for one in found)
    assert differ is None


def test_cold_calls_take_new_inputs_and_warm_ones_those_before_them():
    source = FakeSource()
    DeviceClocks(source, source).series("case", lambda x: x, rotation_of(20))
    (sets,) = source.seen
    assert numbers(sets[:CALLS]) == list(range(CALLS))
    assert numbers(sets[CALLS:]) == [0] * (CALLS + 1)


def test_a_small_rotation_is_gone_through_again():
    source = FakeSource()
    found, _ = DeviceClocks(source, source).series("case", lambda x: x, rotation_of(4))
    assert [len(sets) for sets in source.seen] == [4 + 1 + 4] * 3
    assert {len(one.samples) for one in found} == {12}


def test_two_sources_are_recorded_and_held_against_each_other():
    kernels = FakeSource("cupti", starts=False, copy=False)
    found, differ = DeviceClocks(kernels, FakeSource()).series("case", lambda x: x, rotation_of(20))
    assert {(one.clock, one.source) for one in found} == {("device_kernels", "cupti"), ("device_span", "trace")}
    assert differ is None
    _, differ = DeviceClocks(kernels, FakeSource(kernel_s=4e-6)).series("case", lambda x: x, rotation_of(20))
    assert "the sources tell 6.00 and 8.00 us of kernels per call" in differ


def test_a_sum_that_leaves_out_a_copy_is_not_held_against_the_ceiling():
    for copy in (True, False):
        source = FakeSource(copy=copy)
        places = by_place(DeviceClocks(source, source).series("case", lambda x: x, rotation_of(20))[0])
        assert places["device_kernels", "cold"].whole is not copy
        assert places["device_span", "cold"].whole


def test_without_starts_there_is_no_span_and_it_is_said():
    clocks = DeviceClocks.find((lambda: FakeSource("cupti", starts=False),))
    assert clocks.spans is None
    assert "device_span is not known" in clocks.notes[0]
    found, differ = clocks.series("case", lambda x: x, rotation_of(3))
    assert {one.clock for one in found} == {"device_kernels"}
    assert differ is None


@pytest.mark.parametrize("lets_go", [True, False])
def test_a_source_that_the_other_keeps_out_is_not_relied_on(lets_go):
    trace = FakeSource()

    class KeptOut(FakeSource):
        def record(self, call, input_sets):
            if trace.seen and not lets_go:
                raise RuntimeError("failed to subscribe")
            return super().record(call, input_sets)

    clocks = DeviceClocks.find((lambda: KeptOut("cupti", starts=False), lambda: trace))
    assert clocks.spans is trace
    assert clocks.kernels.name == ("cupti" if lets_go else "trace")
    if not lets_go:
        assert clocks.kernels is trace
        assert "cupti cannot be used beside trace: failed to subscribe" in clocks.notes[0]


def test_here_without_a_gpu_cupti_falls_back_to_the_trace_and_says_so():
    """JAX's own CUPTI and profiler: the first cannot work without a GPU, the second also tells a CPU's time."""
    clocks = DeviceClocks.find((Cupti, Trace))
    assert clocks.kernels is clocks.spans
    assert clocks.kernels.name == "trace"
    (note,) = clocks.notes
    assert note.startswith("cupti cannot be used: ")
    assert note.endswith("; trace is used instead")


def test_the_clocks_of_a_cpus_trace_are_series_too():
    x = jnp.arange(65536.0)
    call = jax.jit(lambda x: jnp.sort(x) * 2).lower(x).compile()
    trace = Trace()
    found, _ = DeviceClocks(trace, trace).series("case", call, Rotation([(x,), (x + 1,)], 0, lambda: None))
    assert {(one.clock, one.cache, len(one.samples)) for one in found} == {
        (clock, cache, 6) for clock in ("device_kernels", "device_span") for cache in ("cold", "warm")
    }
    assert all(second > 0 for one in found for second in one.seconds)


def test_kernels_that_are_nothing_to_each_other_are_five_launches_on_a_gpu():
    from normbench.fusion import compile_for

    pytest.importorskip("jax_cuda13_plugin")
    x = jax.ShapeDtypeStruct((256,), jnp.float32)
    for kernels in (1, 5):
        assert compile_for(_chain(kernels), (x,), "h200").compiled_row()["launches"] == kernels


def test_the_cost_of_a_launch_is_measured_once_and_has_no_bytes():
    rows, notes = measure_launches("cpu", 0, np.random.default_rng(0))
    assert notes == []
    assert {row["program"] for row in rows} == {"launch 1", "launch 1, pipelined"}
    assert all(row["seconds"] > 0 and "bytes" not in row and set(row) <= set(TABLES["ceilings"]) for row in rows)
    assert list(programs("gpu")) == ["launch 1", "launch 5", "launch 5 without command buffers"]


def test_with_device_clocks_launches_have_rows_by_them():
    source = FakeSource()
    rows, notes = measure_launches("gpu", 0, np.random.default_rng(0), DeviceClocks(source, source))
    names = {row["program"] for row in rows}
    for program in programs("gpu"):
        assert {program, f"{program}, pipelined", f"{program}, device_kernels", f"{program}, device_span"} <= names
    assert notes == []


def test_a_compiler_that_does_not_know_the_option_costs_one_program(monkeypatch):
    monkeypatch.setattr("normbench.study.clocks.launch_cost.NO_COMMAND_BUFFERS", {"xla_no_such_option": ""})
    rows, (note,) = measure_launches("gpu", 0, np.random.default_rng(0))
    assert {row["program"].partition(",")[0] for row in rows} == {"launch 1", "launch 5"}
    assert "xla_no_such_option" in note


@pytest.fixture
def a_gpu_that_is_faked(monkeypatch, tmp_path):
    """Measures on this CPU as if it were "gpu", with a fake source and fake readings; returns what was emitted."""

    def measure(source, state=None, notes=(), compiling=lambda: None):
        def compile_case(case, target, run):
            compiling()
            return compile_here(case, "cpu", run)

        monkeypatch.setattr(worker_bench, "last_level_cache_bytes", lambda device: 2**16)
        monkeypatch.setattr(worker_bench, "known_cache_bytes", lambda device: 2**16)
        monkeypatch.setattr(worker_measure, "compile_case", compile_case)
        bench = Bench("gpu", 0, 1, 0, lambda: DeviceClocks(source, source, notes), state or (lambda: None))
        (unit,) = measure_units((Case(SMALL, "naive"), Case(SMALL, "folded")), ("gpu",), 1)
        emitted = {}

        def emit(case, tables, done=False, right=""):
            for name, rows in tables.items():
                emitted.setdefault(name, []).extend(rows)

        (tmp_path / "hlo").mkdir(exist_ok=True)
        Measurement(unit, RULE, bench, Path(tmp_path), emit, lambda *_: None, lambda: None).run()
        return emitted

    from normbench.study.worker.compiled_case import compile_case as compile_here

    return measure


def test_a_unit_on_a_gpu_has_all_clocks_marks_and_ratios(a_gpu_that_is_faked):
    calm, hot = Reading(1980, 1980, 300.0, 50, 0, "nvml"), Reading(1500, 1980, 700.0, 88, 0x20, "nvml")
    readings = iter((calm, hot))
    found = a_gpu_that_is_faked(FakeSource(kernel_s=0.1), lambda: next(readings), ("cupti cannot be used: x",))
    timings = [row for row in found["timings"] if row.get("seconds")]
    assert {row["clock"] for row in timings} == {"wall", "pipelined", "device_kernels", "device_span"}
    assert {row.get("source") for row in timings} == {None, "trace"}
    assert all(row["throttled"] is True for row in timings)
    minimum_bytes = {row["case"]: row["minimum_bytes"] for row in found["compiled"]}
    assert all(row["cache_ratio"] == minimum_bytes[row["case"]] / 2**16 for row in timings)
    assert all(set(row) <= set(TABLES[name]) for name, rows in found.items() for row in rows)
    assert [row["moment"] for row in found["device_states"]] == ["before", "after"]
    assert [row["text"] for row in found["notes"]] == ["cupti cannot be used: x"]
    programs = {row["program"] for row in found["ceilings"]}
    assert {"copy", "triad, pipelined", "triad, device_kernels", "launch 5"} <= programs
    assert {(row["name"], row["clock"]) for row in found["aa"]} >= {("a", "device_span"), ("b", "wall")}


def test_an_impossible_row_is_refused_and_its_samples_are_kept(a_gpu_that_is_faked, monkeypatch):
    """The ceiling by the device's clock is set by the test; the fake source then claims to be faster."""
    monkeypatch.setattr(Ceilings, "bytes_per_second", lambda self, size, by_device=False: 1e9 if by_device else 1e15)
    found = a_gpu_that_is_faked(FakeSource(copy=False))
    by_device = [row for row in found["timings"] if row["clock"].startswith("device")]
    cold = [row for row in by_device if row["cache"] == "cold"]
    assert cold
    assert all(row["status"] == "impossible" and row["seconds"] > 0 and "GB/s" in row["reason"] for row in cold)
    assert {row["status"] for row in by_device if row["cache"] == "warm"} == {"ok"}
    assert {row["status"] for row in found["timings"] if not row["clock"].startswith("device")} == {"ok"}


def test_a_kernel_whose_blocks_were_never_tuned_here_is_told(a_gpu_that_is_faked):
    """Compiling stands for a kernel that asks for its blocks."""
    key = problem_key("layer_norm.forward", (7, 4096), "bfloat16")
    config = forward_config(7, 4096, "bfloat16")
    found = a_gpu_that_is_faked(FakeSource(), compiling=lambda: tuned(config, key))
    told = [row for row in found["notes"] if row["text"].startswith(f"untuned: nothing is stored for {key} on ")]
    assert [row["case"] for row in told] == [Case(SMALL, name).slug for name in ("naive", "folded")]


def test_a_source_that_fails_costs_its_clocks_and_is_told(a_gpu_that_is_faked):
    class Failing(FakeSource):
        def record(self, call, input_sets):
            raise RuntimeError("lost the device's records")

    found = a_gpu_that_is_faked(Failing())
    assert {row["clock"] for row in found["timings"]} == {"wall", "pipelined"}
    assert any("lost the device's records" in row["text"] for row in found["notes"])


def test_an_a_a_test_that_fails_costs_itself_and_is_told(a_gpu_that_is_faked, monkeypatch):
    def fail(*arguments, **keywords):
        raise RuntimeError("no memory for two")

    monkeypatch.setattr(worker_measure, "against_itself", fail)
    found = a_gpu_that_is_faked(FakeSource(kernel_s=0.1), notes=("an earlier note",))
    assert {row["status"] for row in found["timings"]} == {"ok"}
    assert "aa" not in found
    texts = [row["text"] for row in found["notes"]]
    assert texts[-1] == "the A/A test ended: RuntimeError: no memory for two"
    assert "an earlier note" in texts[1:], "later notes of a unit replace those before them, and hold them too"


def test_a_trace_of_a_gpu_without_any_source_is_a_note():
    def none():
        raise RuntimeError("nothing tells")

    bench = Bench("gpu", 0, 1, 0, none, lambda: None)
    assert bench.clocks is None
    assert bench.notes() == ["the device's own clocks are not read: nothing tells"]
    assert bench.notes() == []


def test_the_span_of_a_call_is_not_told_without_records():
    assert device_span(()) is None
