"""Work is cut the same way every time, and a dead worker's case is named with its cause."""

import mmap
import signal
from dataclasses import replace

import pytest

from normbench.cases.case import Case
from normbench.kernels import Problem
from normbench.study.schedule.compiling import Progress, WorkerError, WorkerPool
from normbench.study.schedule.mark import STEPS, Mark
from normbench.study.schedule.units import Unit, compile_units, measure_units
from normbench.study.schedule.worker_process import Death, Settings, explain_death, telling_line
from normbench.study.worker.compiled_case import Refusal, outcome

SMALL = Problem("batch_norm", (2, 4, 3, 5))
WIDE = Problem("batch_norm", (2, 4, 3, 5), dtype="float64")
CASES = tuple(Case(problem, name) for problem in (WIDE, SMALL) for name in ("naive", "folded"))

XLA_ABORT = """\
2025-11-21 01:00:00.1 service.cc:158] XLA service 0x1 initialized
F0000 00:00:1763.9 4711 layout_util.cc:298] Check failed: shape.has_layout() f32[2]
*** Check failure stack trace: ***
    @     0x7f0000000001  absl::log_internal::LogMessage::SendToLog()
[host:04711] *** Process received signal ***
"""


def test_units_are_the_same_every_time_and_name_everything_they_are():
    first, second = (measure_units(CASES, ("cpu", "h200"), 2) for _ in range(2))
    assert first == second
    assert len({unit.name for unit in first}) == len(first) == 4
    assert [(unit.process, unit.wide) for unit in first] == [(0, False), (1, False), (0, True), (1, True)]
    assert all(len(unit.cases) == 2 for unit in first)


@pytest.mark.parametrize(("processes", "problems"), [(1, 8), (2, 4), (5, 4)])
def test_some_problems_evenly_spread_are_timed_against_themselves(processes, problems):
    cases = tuple(Case(Problem("batch_norm", (2, 4 + number), "nc"), "naive") for number in range(40))
    units = measure_units(cases, ("cpu",), processes)
    tested = [unit for unit in units if unit.aa]
    assert len(tested) == problems * processes
    places = [number for number, unit in enumerate(units[::processes]) if unit.aa]
    assert places == list(range(0, 40, 40 // problems))
    assert sum(unit.aa for unit in measure_units(cases[:2], ("cpu",), 1)) == 2


def test_what_is_here_is_measured_and_what_is_not_is_compiled():
    assert {unit.target for unit in measure_units(CASES, ("cpu", "h200", "gpu"), 1)} == {"cpu", "gpu"}
    assert [unit.target for unit in compile_units(CASES, ("cpu", "h200", "a100"))] == ["h200", "a100", "h200", "a100"]


def test_the_name_of_a_unit_fits_into_a_file_name():
    long = Problem("batch_norm", (2, 4), "nc", options=tuple((f"a_rather_long_option_{n}", n) for n in range(12)))
    names = {unit.name for unit in compile_units((Case(long, "naive"),), ("h200", "h100"))}
    assert len(names) == 2
    assert all(len(name) < 230 for name in names)


@pytest.mark.parametrize(
    ("code", "errors", "killed_for", "status", "reason"),
    [
        (-signal.SIGKILL, "", "compiling it took longer than 5 s", "timeout", "compiling it took longer than 5 s"),
        (-signal.SIGKILL, "x", None, "killed", "killed from outside by SIGKILL"),
        (-signal.SIGSEGV, "", None, "crashed", "SIGSEGV: no message"),
        (
            -signal.SIGABRT,
            "terminate called\n  what():  std::bad_alloc\n",
            None,
            "out_of_memory",
            "what(): std::bad_alloc",
        ),
        (3, "Traceback\n  File\nTypeError: no\n", None, "crashed", "the process exited with status 3: TypeError: no"),
    ],
)
def test_a_death_is_explained(code, errors, killed_for, status, reason):
    assert explain_death(code, errors, killed_for) == (status, reason)


def test_a_failed_check_of_the_compiler_is_quoted():
    assert telling_line(XLA_ABORT).endswith("Check failed: shape.has_layout() f32[2]")
    assert explain_death(-signal.SIGABRT, XLA_ABORT, None)[1].startswith("SIGABRT: F0000")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("two\n lines"), ("failed", "ValueError: two lines")),
        (MemoryError(), ("out_of_memory", "MemoryError")),
        (RuntimeError("RESOURCE_EXHAUSTED: x"), ("out_of_memory", "RuntimeError: RESOURCE_EXHAUSTED: x")),
        (Refusal("unsupported", "too wide"), ("unsupported", "too wide")),
    ],
)  # fmt: skip
def test_an_exception_becomes_a_status_and_one_line(error, expected):
    assert outcome(error) == expected


def test_the_mark_says_which_case_and_step():
    with mmap.mmap(-1, Mark.SIZE_BYTES) as page:
        assert Mark.read(page) == (0, 0, STEPS[0])
        mark = Mark(page)
        mark.units(("a", "b"))
        mark("b", "timing")
        assert Mark.read(page) == (1, 1, "timing")
        mark(None, "waiting")
        assert Mark.read(page) == (2, -1, "waiting")


def test_a_death_ends_one_case_and_keeps_what_the_others_found():
    unit = Unit("measure", "cpu", 0, "u", ("a", "b", "c"), False)
    progress = Progress(unit)
    progress.add({"case": "a", "tables": {"compiled": [{"case": "a", "status": "ok"}]}, "done": False})
    progress.add({"case": "b", "tables": {"compiled": [{"case": "b", "status": "ok"}]}, "done": False})
    progress.bury(Death(1, "crashed", "SIGSEGV"), ("a", "b", "c"))
    assert progress.remaining == ["a", "c"]
    tables = progress.tables()
    assert [row["status"] for row in tables["compiled"]] == ["ok", "ok"]
    assert [(row["case"], row["status"]) for row in tables["timings"]] == [("b", "crashed")]
    assert [(row["case"], row["status"]) for row in tables["accuracy"]] == [("b", "crashed")]


def test_a_death_of_no_case_in_particular_ends_all_that_are_left():
    progress = Progress(Unit("compile", "h200", 0, "u", ("a", "b", "c"), False))
    progress.add({"case": "a", "tables": {"compiled": [{"case": "a", "status": "ok"}]}, "done": True})
    progress.bury(Death(None, "timeout", "drawing inputs"), ("b", "c"))
    assert progress.remaining == []
    assert [row["status"] for row in progress.tables()["compiled"]] == ["ok", "timeout", "timeout"]


def settings(tmp_path, kind, **fields):
    defaults = {
        "target": "h200", "process": 0, "wide": False, "run": str(tmp_path), "imports": (), "rule": (), "seed": 0,
        "memory_share": 0.5, "processes": 1,
    }  # fmt: skip
    return Settings(kind=kind, **{**defaults, **fields})


def test_a_worker_that_cannot_start_is_an_error_of_the_installation(tmp_path):
    units = compile_units(CASES[2:], ("h200",))
    broken = settings(tmp_path, "compile", imports=("no_such_module",))
    with pytest.raises(WorkerError, match=r"did not start: .*no_such_module"):
        WorkerPool(units, lambda unit: broken, 1, 60.0, lambda progress: None).run()


def test_a_compiling_worker_changes_the_mode_unit_by_unit(tmp_path):
    """One process: double precision before and after single precision, each with the bytes of its own dtype."""
    pytest.importorskip("jax_cuda13_plugin")
    (tmp_path / "hlo").mkdir()
    problems = [Problem("batch_norm", (64, 32), "nc", dtype, dtype) for dtype in ("float32", "float64")]
    narrow, wide = compile_units([Case(problem, "naive") for problem in problems], ("h200",))
    one = settings(tmp_path, "compile")
    found = []
    units = [wide, narrow, replace(wide, target="a100")]
    WorkerPool(units, lambda unit: one, 1, 120.0, found.append).run()
    read = [sum(row["read_bytes"] for row in progress.tables()["launches"]) for progress in found]
    elements = 64 * 32 + 4 * 32
    assert [progress.unit.wide for progress in found] == [True, False, True]
    assert read == [8 * elements, 4 * elements, 8 * elements]


def test_a_crash_while_compiling_costs_one_case(tmp_path):
    """Two problems and two workers; the second case of each problem aborts its process."""
    pytest.importorskip("jax_cuda13_plugin")
    (tmp_path / "hlo").mkdir()
    names = ("naive", "aborts", "folded")
    cases = [Case(problem, name) for problem in (SMALL, Problem("batch_norm", (3, 4), "nc")) for name in names]
    with_faults = settings(tmp_path, "compile", imports=("tests.study.faulty_variants",))
    found = []
    WorkerPool(compile_units(cases, ("h200",)), lambda unit: with_faults, 2, 120.0, found.append).run()
    rows = [row for progress in found for row in progress.tables()["compiled"]]
    outcomes = {row["case"]: (row["status"], row.get("reason")) for row in rows}
    assert len(rows) == len(outcomes) == 6
    assert {case.slug: outcomes[case.slug][0] for case in cases} == {
        case.slug: "crashed" if case.variant == "aborts" else "ok" for case in cases
    }
    assert all("SIGABRT" in reason for status, reason in outcomes.values() if status == "crashed")
    assert len(list((tmp_path / "hlo").rglob("*.pb.zst"))) == 4
    assert all(progress.worker_s > 0 for progress in found)
