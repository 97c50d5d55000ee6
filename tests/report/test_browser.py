"""The report in a real browser: it sorts, filters, opens a case, and reports no script error.

Needs Chromium (Debian: `apt-get install chromium`), which is not part of any Python package; skipped where there is
none, but with NORMBENCH_BROWSER=required in the environment, as `.ci/run` has it, its absence is a failure.
"""

from pathlib import Path

import pytest

from normbench.report import load_run, write_report
from tests.report.browsing import CHROMIUM, REQUIRED, drive
from tests.report.synthetic_runs import accuracy_row, case_row, compiled_rows, timing_rows, trouble, write_run

_KEPT = Path(__file__).resolve().parents[2] / "results" / "runs" / "standard"

pytestmark = pytest.mark.skipif(CHROMIUM is None and not REQUIRED, reason="no Chromium: apt-get install chromium")

_USE = """
  const rows = () => [...document.querySelectorAll("#table tbody tr")];
  const texts = (column) => rows().map((row) => row.cells[column].textContent);
  const names = () => [...document.querySelectorAll("#table th")].map((cell) => cell.dataset.column);
  const sort = (name) => document.querySelector(`th[data-column="${name}"] button`).click();
  const cold = names().indexOf("wall_cold_median_s");
  result.rows = texts(0).length;
  sort("wall_cold_median_s"); result.ascending = texts(cold);
  sort("wall_cold_median_s"); result.descending = texts(cold);
  result.sorted = document.querySelector("th[aria-sort=descending]").dataset.column;
  result.focused = document.activeElement.textContent;
  const words = document.querySelector("input[type=search]");
  const enter = (text) => { words.value = text; words.dispatchEvent(new Event("input", { bubbles: true })); };
  enter("conv_bn h200"); result.words = texts(0).length;
  enter("launches>=2"); result.condition = texts(names().indexOf("launches"));
  enter("");
  const menu = document.querySelector("select[name=status]");
  menu.value = "unsupported"; menu.dispatchEvent(new Event("input", { bubbles: true }));
  result.unsupported = texts(names().indexOf("status"));
  menu.value = ""; menu.dispatchEvent(new Event("input", { bubbles: true }));
  document.querySelector("button.rows").click();
  result.finding = texts(0).length;
  location.hash = document.querySelector("#table tbody a").getAttribute("href");
  const dialog = document.getElementById("case");
  await until(() => dialog.open);
  result.open = dialog.open;
  result.title = document.getElementById("case-title").textContent;
  result.tables = dialog.querySelectorAll("table").length;
  result.pictures = dialog.querySelectorAll(".fusion svg").length;
  const headings = [...dialog.querySelectorAll("h3")].map((each) => each.textContent);
  result.targets = headings.filter((text) => text.startsWith("Compiled for")).length;
  result.command = dialog.querySelector("pre").textContent;
  dialog.querySelector("header button").click();
  await until(() => !location.hash);
  result.closed = [dialog.open, location.hash];
"""

# On a page of any run: counts its rows, opens the first case of every status through its link, closes it, has all plots
# drawn as for printing, and says whether the page is wider than the window.
_WALK = """
  result.statuses = {};
  result.nodes = document.getElementsByTagName("*").length;
  result.wide = document.documentElement.scrollWidth - window.innerWidth;
  const dialog = document.getElementById("case");
  const menu = document.querySelector("select[name=status]");
  const statuses = menu ? [...menu.options].map((option) => option.value).filter(Boolean) : [""];
  result.shown = document.querySelectorAll("#table tbody tr").length;
  result.status = document.getElementById("shown").textContent;
  for (const status of statuses) {
    if (menu) { menu.value = status; menu.dispatchEvent(new Event("input", { bubbles: true })); }
    const link = document.querySelector("#table tbody a");
    link.focus();
    link.click();
    await until(() => dialog.open);
    result.statuses[status] = dialog.textContent.length;
    dialog.close();
    await until(() => !location.hash);
  }
  const places = [...document.querySelectorAll("[data-plot]")];
  const empty = () => places.filter((place) => !place.querySelector("svg")).length;
  window.dispatchEvent(new Event("beforeprint"));
  await until(() => !empty());
  result.plots = [places.length, empty()];
  result.questions = document.getElementById("plot")?.options.length;
  result.hash = location.hash;
  result.small = [...document.querySelectorAll("button, select, input")].filter((each) =>
    each.offsetParent && each.getBoundingClientRect().height < 18).length;
"""


def _opened(run, folder, script, width=1400):
    return drive(write_report(run, folder / "report.html"), folder, script, width)


@pytest.fixture(scope="module")
def seen(run, tmp_path_factory):
    return _opened(run, tmp_path_factory.mktemp("browser"), _USE)


def _is_clean(seen):
    assert seen["errors"] == []
    assert seen["resources"] == 0
    assert seen["asked"] == ["/", "/report.html"]


def test_no_script_error_and_nothing_loaded(seen):
    _is_clean(seen)


def test_sorts_by_number_with_what_is_absent_last(seen):
    up, down = ([float(text.replace(",", "")) for text in seen[name] if text] for name in ("ascending", "descending"))
    assert up == sorted(up)
    assert down == sorted(down, reverse=True)
    assert len(up) == 28
    assert set(seen["descending"][28:]) == {""}
    assert seen["sorted"] == "wall_cold_median_s"
    assert seen["focused"] == "wall cold µs"


def test_filters_by_words_conditions_menus_and_findings(seen):
    assert seen["rows"] == 64
    assert seen["words"] == 12
    assert set(seen["condition"]) == {"2"}
    assert seen["unsupported"] == ["unsupported"] * 4
    assert seen["finding"] == 4


def test_opens_and_closes_a_case(seen):
    assert seen["open"]
    assert seen["title"] == "batch_norm · naive_promoting"
    assert seen["tables"] >= 3
    assert seen["pictures"] == seen["targets"] > 0, "a picture of each target's program"
    assert seen["command"].startswith("normbench explain batch_norm naive_promoting --shape")
    assert seen["closed"] == [False, ""]


def _troubled_tables():
    """One case of every status, and a run that was not finished has the same tables."""
    cases = [case_row("batch_norm", "naive", f"{number}x16x32x32") for number in range(1, 8)]
    row, launches = compiled_rows(cases[0], "cpu")
    tables = {"cases": cases, "compiled": [row], "launches": launches}
    tables["timings"] = timing_rows(cases[0])
    tables["accuracy"] = [accuracy_row(cases[0])]
    for case, status in zip(cases[1:], ("failed", "crashed", "out_of_memory", "timeout", "unsupported"), strict=False):
        tables["compiled"].append(trouble(case, status, f"made up: {status}", "cpu", "compiled"))
    tables["timings"].append(trouble(cases[6], "wrong", "off by 3 ulp"))
    return tables


@pytest.mark.parametrize("width", [1400, 390])
def test_a_run_with_every_kind_of_trouble(tmp_path, width):
    run = load_run(write_run(tmp_path / "run", _troubled_tables()))
    seen = _opened(run, tmp_path, _WALK, width)
    _is_clean(seen)
    assert set(seen["statuses"]) == {"ok", "failed", "crashed", "out_of_memory", "timeout", "unsupported", "wrong"}
    assert all(length > 100 for length in seen["statuses"].values())
    assert seen["hash"] == ""
    assert seen["wide"] <= 0
    assert seen["small"] == 0


def test_a_run_that_was_not_finished(tmp_path):
    run = load_run(write_run(tmp_path / "run", _troubled_tables(), status="running"))
    seen = _opened(run, tmp_path, _WALK)
    _is_clean(seen)
    assert seen["shown"] == 7


@pytest.mark.skipif(not _KEPT.is_dir(), reason="no standard run is kept")
def test_the_standard_run(kept_page, tmp_path):
    run = load_run(_KEPT)
    seen = drive(kept_page("standard"), tmp_path, _WALK)
    _is_clean(seen)
    assert seen["plots"] == [1, 0]  # one at a time
    assert seen["questions"] >= 10
    assert seen["nodes"] < 12_000  # what is drawn at opening: the rest when it is asked for
    assert seen["shown"] == 80  # a window of the rows; the rest are drawn when they are asked for
    assert f"of {len(run.compiled):,} rows" in seen["status"]
    assert all(length > 100 for length in seen["statuses"].values())
