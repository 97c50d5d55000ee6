"""The page of what each JAX release makes of the same programs."""

import sys
from pathlib import Path

import pytest

from analysis.pages import history
from analysis.pages.history import PAGE, PLOT, page
from analysis.pages.history_steps import steps
from normbench.goldens.store import FOLDER, read_all

ROOT = Path(__file__).resolve().parents[2]
CASE = "layer_norm.gelu.8x16.nc.bf16.f32.forward_backward.welford"
OTHER = "rms_norm.alone.8x16.nc.bf16.f32.forward.naive"


def structure(launches=2, size=2000, program="abc", **facts):
    plain = {"kinds": {"loop": launches}, "rewrites": {}, "refused": {}}
    return {"launches": launches, "bytes": size, "traffic_ratio": size / 1000, "program": program, **plain, **facts}


def releases(*rows):
    return {f"0.{number}": {"h200": {CASE: row, OTHER: structure()}} for number, row in enumerate(rows)}


def test_the_page_is_as_the_goldens_have_it():
    assert (ROOT / PAGE).read_text() == page(read_all(ROOT / FOLDER)), "renew it with: make history"


def test_the_plot_is_beside_it():
    text = (ROOT / PLOT).read_text()
    assert text.startswith("<svg")
    assert "/work" not in text + (ROOT / PAGE).read_text()


def test_what_changed_is_told_in_words_and_in_a_table():
    text = page(releases(structure(), structure(3, 1500)))
    assert "Of 2 programs, 1 are fused in another way: 1 move fewer bytes." in text
    assert "In 1 of them JAX hands the compiler the same program, so the change is XLA's." in text
    assert "Nothing changed in `rms_norm`." in text
    assert "| `layer_norm` | h200 | 1 | 1 | 1 | 0 | 0 / 1 |" in text
    row = "| `welford`, forward and backward, gelu 8x16 nc bf16 | h200 | 2 → 3 | 2.00 → 1.50 | yes |"
    assert row in text
    assert "The most gained: `welford`, forward and backward, gelu 8x16 nc bf16 on the h200, 2 → 3 launches" in text


def test_a_tpu_has_its_rows_in_the_releases_that_know_it():
    goldens = releases(structure(), structure(), structure())
    goldens["0.0"]["v6e"], goldens["0.1"]["v6e"] = {CASE: structure()}, {CASE: structure(3, 1500)}
    text = page(goldens)
    assert "Programs compiled, not timed: 2 for the h200, 1 for the v6e (under 0.0 and 0.1 alone)" in text
    assert text.count("| `layer_norm` | v6e | 1 | 1 | 1 | 0 | 0 / 1 |") == 1
    assert text.index("| `layer_norm` | h200 |") < text.index("| `layer_norm` | v6e |")


def test_another_decision_with_the_same_outcome_is_no_change():
    text = page(releases(structure(), structure(refused={"no gain": 1})))
    assert "Of 2 programs none moves other bytes or takes another number of launches." in text


def test_a_pattern_that_no_longer_matches_is_named():
    before = structure(1, 1000, rewrites={"triton-softmax-rewriter": 1})
    text = page(releases(before, structure(3, 3000, "abd")))
    assert "- triton-softmax-rewriter no longer matches: 1 program, of `welford`." in text
    assert "The most lost" in text
    assert "0 of them though JAX hands the compiler the same" in text


def test_a_program_that_ceased_to_compile_is_told():
    text = page(releases(structure(), {"status": "crashed", "reason": "SIGABRT", "program": "abc"}))
    assert "1 began or ceased to compile" in text
    assert "2 → crashed" in text


def test_each_release_is_compared_with_the_one_before():
    found = steps(releases(structure(), structure(3), structure(3)))
    assert [(step.before, step.after, len(step.changes)) for step in found] == [("0.0", "0.1", 1), ("0.1", "0.2", 0)]


@pytest.mark.parametrize("stale", [False, True])
def test_check_says_whether_the_page_is_up_to_date(stale, tmp_path, monkeypatch, capsys):
    for name in ("results", "docs"):
        (tmp_path / name).mkdir()
    (tmp_path / FOLDER).symlink_to(ROOT / FOLDER)
    (tmp_path / PAGE).write_text(page(read_all(ROOT / FOLDER)) + "x" * stale)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["history", "--check"])
    assert history.main() == int(stale)
    assert ("make history" in capsys.readouterr().out) == stale
