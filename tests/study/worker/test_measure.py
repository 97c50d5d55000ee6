"""A result that another process has found to be right, bit by bit, is not judged again; any other is."""

from dataclasses import replace

import pytest

from normbench.cases.case import Case
from normbench.kernels import Problem
from normbench.study.check.accuracy import Oracle
from normbench.study.check.distance import refused
from normbench.study.clocks.sampling import StoppingRule
from normbench.study.schedule.units import measure_units
from normbench.study.worker.bench import Bench
from normbench.study.worker.measure import Measurement

PROBLEM = Problem("rms_norm", (4, 32), dtype="bfloat16", layout="nc")
CASE = Case(PROBLEM, "naive")
RULE = StoppingRule(minimum_samples=2, maximum_samples=2, relative_noise=1.0, time_limit_s=0.0)


class Run:
    """Measures the case by one process, and keeps what it says."""

    def __init__(self, tmp_path, process, right=()):
        (tmp_path / "hlo").mkdir(exist_ok=True)
        unit = replace(measure_units([CASE], ("cpu",), 2)[process], aa=False, right=right)
        self.right, self.timings = {}, []
        bench = Bench("cpu", process, 2, 0)
        Measurement(unit, RULE, bench, tmp_path, self._emit, lambda *_: None, lambda: None).run()

    def _emit(self, case, tables, done=False, right=""):
        self.timings += tables.get("timings", [])
        if right:
            self.right[case] = right


@pytest.fixture
def judged(monkeypatch):
    found, check = [], Oracle.check
    monkeypatch.setattr(Oracle, "check", lambda self, *given: found.append(given) or check(self, *given))
    return found


def test_the_second_process_judges_what_differs_from_the_first_alone(tmp_path, judged):
    first = Run(tmp_path, 0)
    assert list(first.right) == [CASE.slug]
    assert judged

    judged.clear()
    second = Run(tmp_path, 1, tuple(first.right.items()))
    assert not judged
    assert {row["status"] for row in second.timings} == {"ok"}

    other = Run(tmp_path, 1, ((CASE.slug, "of another result"),))
    assert judged
    assert {row["status"] for row in other.timings} == {"ok"}


def test_a_wrong_result_is_told_to_nobody_as_right(tmp_path, monkeypatch):
    monkeypatch.setattr(Oracle, "check", lambda self, *_: refused("it is wrong"))
    run = Run(tmp_path, 0)
    assert not run.right
    assert {row["status"] for row in run.timings} == {"wrong"}
