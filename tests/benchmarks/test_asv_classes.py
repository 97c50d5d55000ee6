"""The asv classes: an older commit is skipped, a broken one fails, and asv samples device time where it is told to."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import normbench.errors
import normbench.study.worker.compiled_case  # whatever of the package imports the name that a test takes away
from benchmarks import bench_support
from benchmarks.bench_device import DeviceClock, DeviceLatency, stream_seconds
from benchmarks.bench_fusion import Fusion
from benchmarks.bench_latency import Latency
from benchmarks.bench_support import TARGETS, error_of, labels, older_commits_skipped, program_of, structure_of
from normbench import kernels

ROOT = Path(__file__).resolve().parents[2]
SLUG = "batch_norm.alone.1x8x4x4.nchw.f32.f32.forward.naive"
(LABEL,) = labels((SLUG,))


@pytest.mark.parametrize("operator", ["batch_norm", "no_such_operator"])
def test_what_a_commit_lacks_is_skipped(operator):
    with pytest.raises(NotImplementedError, match="no_such"):
        program_of(f"{operator}.alone.1x8x4x4.nchw.f32.f32.forward.no_such_variant", "cpu")


@pytest.mark.parametrize("missing", ["a name", "an argument"])
def test_an_older_commit_that_does_not_fit_is_skipped(monkeypatch, missing):
    """The line that misses a name, or calls with too many arguments, is one of `benchmarks`."""
    if missing == "a name":
        monkeypatch.delattr(normbench.errors, "UserError")
    else:
        monkeypatch.setattr(kernels, "program", lambda problem: None)
    with pytest.raises(NotImplementedError, match="too old"):
        program_of(SLUG, "cpu")
    assert set(error_of(SLUG)) == {"skipped"}


@pytest.mark.parametrize("error", [AttributeError("broken"), TypeError("broken"), ValueError("broken")])
def test_an_error_of_the_commit_itself_fails(error):
    def of_the_commit():
        raise error

    with pytest.raises(type(error), match="broken"), older_commits_skipped():
        of_the_commit()


def test_a_failure_is_kept_apart_from_a_skip(monkeypatch):
    def broken(slug, target):
        raise ValueError("no such lowering")

    monkeypatch.setattr(bench_support, "program_of", broken)
    found = structure_of(SLUG, "h200")
    assert found == {"failed": "ValueError: no such lowering"}
    with pytest.raises(AssertionError, match="no such lowering"):
        Fusion().setup({(SLUG, "h200"): found}, LABEL, "h200")
    with pytest.raises(NotImplementedError, match="too old"):
        Fusion().setup({(SLUG, "h200"): {"skipped": "too old"}}, LABEL, "h200")


def test_structures_are_those_of_the_compiler():
    pytest.importorskip("jax_cuda13_plugin")
    found = {(SLUG, "h200"): structure_of(SLUG, "h200")}
    fusion = Fusion()
    fusion.setup(found, LABEL, "h200")
    arguments = found, LABEL, "h200"
    assert fusion.track_launches(*arguments) == 1
    assert fusion.track_bytes(*arguments) == 4 * (2 * 128 + 4 * 8)
    assert fusion.track_traffic_ratio(*arguments) == 1
    assert set(Fusion.params[1]) == set(TARGETS)


def test_latency_runs_a_checked_program():
    latency = Latency()
    latency.setup(LABEL)
    latency.time_wall(LABEL)


def test_a_clock_of_device_time_stands_still_but_for_the_device():
    clock = DeviceClock(lambda call, inputs: 0.25)
    assert clock() == 0
    clock.run(None, ())
    clock.run(None, ())
    assert clock() == 0.5


def test_asv_records_the_seconds_of_the_device():
    time = pytest.importorskip("asv_runner.benchmarks.time")
    seconds = iter([0.5, 0.001, 0.002, 0.003, 0.004])

    class Timed:
        number, repeat, warmup_time = 1, 4, 0
        timer = DeviceClock(lambda call, inputs: next(seconds))

        def time_device(self):
            self.timer.run(None, ())

    Timed.timer.run(None, ())  # before the first sample: no part of it
    case = Timed()
    found = time.TimeBenchmark("t", case.time_device, [case.time_device, case]).run()
    assert found["samples"] == pytest.approx([0.001, 0.002, 0.003, 0.004])


def test_only_the_streams_of_the_gpu_count():
    def line(name, *durations_ns):
        return SimpleNamespace(name=name, events=[SimpleNamespace(duration_ns=ns) for ns in durations_ns])

    gpu = SimpleNamespace(name="/device:GPU:0", lines=[line("Stream #13(compute)", 2000, 500), line("XLA Ops", 2500)])
    host = SimpleNamespace(name="/host:CPU", lines=[line("Stream #1", 9_000_000)])
    assert stream_seconds(SimpleNamespace(planes=[host, gpu])) == pytest.approx(2.5e-6)
    with pytest.raises(RuntimeError, match="nothing on the GPU"):
        stream_seconds(SimpleNamespace(planes=[host]))


def test_device_time_is_left_out_where_there_is_no_gpu():
    from normbench.study.machine.environment import gpu_present

    assert DeviceLatency.time_device.skip_benchmark == (not gpu_present())


def test_asv_finds_the_classes():
    """Discovery, as on a user's machine: asv imports every module of the package in a process of its own."""
    pytest.importorskip("asv")
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("asv works in a clone")
    command = [sys.executable, "-m", "asv", "check", "-E", f"existing:{sys.executable}"]
    environment = {**os.environ, "ASV_PYTHONPATH": str(ROOT)}  # as if installed
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_module_can_be_imported_where_optional_packages_are_missing():
    """asv's environments have none of them, and one module that asks for one would end asv's discovery."""
    code = (
        "import sys, pkgutil, importlib\n"
        "sys.modules.update(dict.fromkeys(('pytensor', 'flax', 'torch', 'ray', 'pytest', 'numba')))\n"
        "import benchmarks\n"
        "for found in pkgutil.walk_packages(benchmarks.__path__, 'benchmarks.'): importlib.import_module(found.name)\n"
        "assert not {'jax', 'pandas', 'numpy'} & set(sys.modules)\n"  # discovery takes a tenth of a second, not six
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
