"""How far a study has come: counts, an estimate from what this attempt has done, failures so far; a log in the run."""

import time

from normbench.study.schedule.progress import Failures, Lines, Log, bar_of


def test_a_line_has_the_estimate_and_the_failures(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Lines(10, 5) as bar:
        bar.skip(4)
        now[0] += 60.0
        bar.set_postfix_str("1 failed")
        bar.update(2)
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "study: 6 of 10 steps for 5 problems, 60 s, about 120 s left, 1 failed"


def test_quiet_says_nothing(capsys):
    with bar_of(3, 1, quiet=True) as bar:
        bar.update(3)
    assert capsys.readouterr().err == ""


def test_each_failed_case_is_counted_once():
    failures = Failures()
    rows = [{"case": "a", "status": "failed", "reason": "no"}, {"case": "b", "status": "unsupported"}]
    assert failures.add({"compiled": rows, "timings": rows}) == ["a failed (compiled): no", "a failed (timings): no"]
    assert str(failures) == "1 failed"


def test_the_log_is_never_written_through_a_link(tmp_path):
    Log(tmp_path)("one\nline")
    assert (tmp_path / "study.log").read_text().endswith(" one line\n")
    elsewhere = tmp_path / "run"
    elsewhere.mkdir()
    (elsewhere / "study.log").symlink_to(tmp_path / "created")
    Log(elsewhere)("nothing")
    assert not (tmp_path / "created").exists()
