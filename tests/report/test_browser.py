"""The report in a real browser: it sorts, filters, opens a case, and reports no script error.

Needs Chromium, which is not part of any Python package; skipped where there is none.
"""

import json
import re
import shutil
import subprocess

import pytest

from analysis.report import write_report

_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--virtual-time-budget=5000",
    "--dump-dom",
]

pytestmark = pytest.mark.skipif(_CHROMIUM is None, reason="no Chromium on this machine")

_CATCH = "<script>window.errors = []; addEventListener('error', (event) => errors.push(event.message));</script>"
_ASK = """<script>addEventListener("load", () => {
  const result = {};
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
  setTimeout(() => {
    const dialog = document.getElementById("case");
    result.open = dialog.open;
    result.title = document.getElementById("case-title").textContent;
    result.tables = dialog.querySelectorAll("table").length;
    result.command = dialog.querySelector("pre").textContent;
    dialog.querySelector("header button").click();
    setTimeout(() => {
      result.closed = [dialog.open, location.hash];
      result.loaded = performance.getEntriesByType("resource").length;
      result.errors = window.errors;
      document.documentElement.dataset.result = JSON.stringify(result);
    }, 100);
  }, 100);
});</script>"""


@pytest.fixture(scope="module")
def seen(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    page = write_report(run, folder / "report.html")
    text = (
        page.read_text(encoding="utf-8").replace("<head>", f"<head>{_CATCH}", 1).replace("</body>", f"{_ASK}</body>", 1)
    )
    page.write_text(text, encoding="utf-8")
    command = [_CHROMIUM, *_FLAGS, f"--user-data-dir={folder / 'profile'}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r'data-result="([^"]*)"', done.stdout)
    assert found, f"{done.stderr[-2000:]}"
    return json.loads(found[1].replace("&quot;", '"').replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&"))


def test_no_script_error_and_nothing_loaded(seen):
    assert seen["errors"] == []
    assert seen["loaded"] == 0


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
    assert seen["title"] == "batch_norm · pallas_triton"
    assert seen["tables"] >= 3
    assert seen["command"].startswith("normbench explain batch_norm pallas_triton --shape")
    assert seen["closed"] == [False, ""]
