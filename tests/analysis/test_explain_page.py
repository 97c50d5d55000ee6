"""The page on `explain` shows the model as it is compiled, and a report that fits a screen."""

import re

import pytest

from analysis.pages.explain import MODEL, PAGE, filled

TEXT = PAGE.read_text(encoding="utf-8")


def block(name):
    return re.search(rf"<!-- {name} -->\n```\w*\n(.*?)\n```", TEXT, re.DOTALL)[1]


def test_the_model_is_the_one_that_is_compiled():
    assert block("model") == MODEL.read_text(encoding="utf-8").strip()


def test_the_report_is_of_a_whole_model_and_fits_a_screen():
    report = block("report")
    assert len(report.splitlines()) < 60
    assert re.search(r"[\d,]+ launches, [\d.]+ MB; minimum", report)
    assert "predicted (not measured)" in report
    shown = re.search(r"```\n(train_step on h200.*?)\n```", (PAGE.parents[1] / "README.md").read_text(), re.DOTALL)[1]
    assert [line for line in shown.splitlines() if line not in report.splitlines() and line != "..."] == []


def test_a_part_is_replaced_and_nothing_else():
    assert filled("a\n<!-- x -->\n```\nold\n```\nb\n```\nc\n```\n", {"x": "new"}) == (
        "a\n<!-- x -->\n```\nnew\n```\nb\n```\nc\n```\n"
    )
    assert filled(TEXT, {"model": block("model")}) == TEXT
    with pytest.raises(ValueError, match="0 blocks"):
        filled("nothing", {"x": "new"})
