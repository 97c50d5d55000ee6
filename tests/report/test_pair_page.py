"""Two runs on one page: every series with its verdict, what changed, and nothing of the data as markup."""

import json
import re

from normbench.report import load_run
from normbench.report.compare.runs import compare
from normbench.report.page.pair import write_comparison
from tests.report.synthetic_runs import UGLY, full_tables, write_run


def _pages(tmp_path, change=lambda tables: None):
    runs = []
    for name, edit in (("a", lambda tables: None), ("b", change)):
        tables = full_tables(shapes=("8x16x32x32",), dtypes=("float32",))
        edit(tables)
        runs.append(load_run(write_run(tmp_path / name, tables)))
    return (*runs, write_comparison(*runs, tmp_path / "pair.html").read_text(encoding="utf-8"))


def _slower(tables):
    for row in tables["timings"]:
        if ".folded" in row["case"] and row.get("seconds"):
            row["seconds"] *= 3
    for row in tables["compiled"]:
        if row["status"] == "ok" and row["target"] == "h200" and ".naive" in row["case"]:
            row["launches"], row["hlo_sha256"] = row["launches"] + 1, "1" * 64


def test_every_series_has_its_verdict_the_slower_ones_first(tmp_path):
    a, b, text = _pages(tmp_path, _slower)
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    columns = {column["name"]: column["values"] for column in data["columns"]}
    found = compare(a, b)
    assert sorted(columns["verdict"]) == sorted(row["verdict"] for row in found.times)
    order = ["SLOWER", "FASTER", "AMBIGUOUS", "SAME"]
    assert columns["verdict"] == sorted(columns["verdict"], key=order.index)
    slow = next(row for row in found.times if ".folded" in row["case"])
    place = columns["case"].index(slow["case"])
    assert columns["change"][place] > 150
    assert f"{found.count('SAME')} SAME" in text


def test_changed_programs_are_listed(tmp_path):
    _, _, text = _pages(tmp_path, _slower)
    section = text.split('<section id="programs">')[1].split("</section>")[0]
    assert section.count("<tr>") >= 2
    assert "h200" in section


def test_nothing_that_comes_from_the_data_is_markup(tmp_path):
    def ugly(tables):
        for row in tables["accuracy"]:
            row["max_ulp"] = 1000.0
        for table in tables.values():
            for row in table:
                row["case"] = row["case"].replace("folded", UGLY)

    _, _, text = _pages(tmp_path, ugly)
    assert "<img" not in text
    assert text.count("<script") == text.count("</script>")
