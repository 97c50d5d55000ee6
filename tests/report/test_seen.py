"""The reports of the kept runs as a person sees them, in Chromium: at 1400, 1280 and 390 pixels, light and dark.

The rules of contrast, labels and roles are axe-core's, which the package axe-core-python brings.
"""

import json
from importlib.util import find_spec
from itertools import pairwise

import pytest

from tests.report.browsing import CHROMIUM, REQUIRED, axe, drive
from tests.report.conftest import KEPT

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None and not REQUIRED, reason="no Chromium: apt-get install chromium"),
    pytest.mark.skipif(not KEPT.is_dir(), reason="no runs are kept"),
]
_AUDITED = pytest.mark.skipif(
    find_spec("axe_core_python") is None and not REQUIRED, reason="no axe-core: pip install axe-core-python"
)

WIDTHS = (1400, 1280, 390)
_LOOK = """
  const regions = () => [...document.querySelectorAll(".scroll")].filter((each) => each.offsetParent);
  await until(() => document.querySelector("#plot-place svg"));
  result.height = document.documentElement.scrollHeight;
  result.first = document.querySelector("section").id;
  for (const each of document.querySelectorAll("details")) each.open = true;
  result.at = {};
  for (const width of WIDTHS) {
    frame.style.width = `${width}px`;
    await until(() => window.innerWidth === width);
    const seen = result.at[width] = {};
    seen.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
    seen.cut = regions().filter((each) => each.scrollWidth > each.clientWidth + 1)
      .map((each) => each.getAttribute("aria-label"));
    seen.unreachable = regions().filter((each) => each.tabIndex !== 0 || !each.getAttribute("aria-label")).length;
    seen.loose = regions().flatMap((each) => [...each.querySelectorAll("tr > :first-child")])
      .filter((each) => window.getComputedStyle(each).position !== "sticky").length;
    seen.answer = [...document.querySelectorAll("table.answer tbody tr")]
      .map((row) => [...row.cells].map((cell) => cell.getBoundingClientRect().right));
    seen.width = document.documentElement.clientWidth;
  }
""".replace("WIDTHS", str(list(WIDTHS)))
_SWITCH = """
  const atlas = () => [...document.querySelectorAll("#grid tbody tr:not(.operator)")];
  const menu = (name) => document.querySelector(`#switches select[name=${name}]`);
  const choose = (name, value) => {
    menu(name).value = value;
    menu(name).dispatchEvent(new Event("input", { bubbles: true }));
  };
  result.shown = {};
  for (const target of [...menu("target").options].map((each) => each.value)) {
    choose("target", target);
    result.shown[target] = {
      measures: [...menu("measure").options].map((each) => each.value),
      first: menu("measure").value,
      rows: atlas().length,
      best: atlas().map((row) => row.querySelectorAll("td.best").length),
      use: atlas().map((row) => [row.cells[1].querySelector(".use"), row.querySelector("td.best")].map(Boolean)),
    };
  }
  choose("target", "cpu"); choose("measure", "error");
  const numbers = atlas().flatMap((row) => [...row.querySelectorAll("td.number")]);
  result.errors_shown = numbers.map((cell) => cell.textContent);
  const plot = document.getElementById("plot"), place = document.getElementById("plot-place");
  const drawn = () => place.querySelector("svg")?.outerHTML;
  await until(drawn);
  const before = drawn();
  plot.value = plot.options[1].value;
  plot.dispatchEvent(new Event("input", { bubbles: true }));
  await until(() => drawn() !== before);
  result.plot = [drawn() !== before, place.getAttribute("aria-label") === plot.options[1].textContent];
  const columns = () => document.querySelectorAll("#table thead th").length;
  const few = columns();
  document.querySelector("input[name=every]").click();
  result.columns = [few, columns()];
"""
_AUDIT = """
  for (const each of document.querySelectorAll("details")) each.open = true;
  await until(() => document.querySelector("#plot-place svg"));
  result.page = await audit(document);
  location.hash = document.querySelector("#table tbody a").getAttribute("href");
  const dialog = document.getElementById("case");
  await until(() => dialog.open);
  result.dialog = await audit(dialog);
  result.command = dialog.querySelector("pre").textContent;
"""
_CASES = """
  const dialog = document.getElementById("case");
  await until(() => document.querySelector("#table tbody a"));
  const links = [...document.querySelectorAll("#table tbody a")].map((each) => each.getAttribute("href"));
  result.opened = 0;
  result.cut = [];
  for (const link of links.filter((_, place) => place % 10 === 0)) {
    location.hash = link;
    await until(() => dialog.open && dialog.querySelector(".scroll table"));
    result.opened += 1;
    result.cut.push(...[...dialog.querySelectorAll(".scroll:has(table)")]
      .filter((each) => each.scrollWidth > each.clientWidth + 1)
      .map((each) => `${link}: ${each.scrollWidth} of ${each.clientWidth}: ${each.querySelector("thead").innerText}`));
    dialog.close();
    await until(() => !location.hash);
  }
"""


@pytest.mark.parametrize("name", ["quick", "standard"])
def test_nothing_is_cut_and_the_answer_comes_first(kept_page, tmp_path, name):
    seen = drive(kept_page(name), tmp_path, _LOOK, WIDTHS[0])
    assert seen["errors"] == []
    assert seen["resources"] == 0
    assert seen["first"] == "answer"
    assert name != "quick" or seen["height"] < 12_000
    for width, at in seen["at"].items():
        assert at["wide"] == at["unreachable"] == at["loose"] == 0, width
        assert len(at["answer"]) >= 14
        assert all(right <= at["width"] <= int(width) for row in at["answer"] for right in row), width
        assert at["cut"] == [] if int(width) >= 1280 else "Which variant to use" not in at["cut"], width


@pytest.mark.parametrize("name", ["quick", "standard"])
def test_no_table_of_a_case_is_cut(kept_page, tmp_path, name):
    seen = drive(kept_page(name), tmp_path, _CASES, 1280)
    assert seen["errors"] == []
    assert seen["opened"] >= 8
    assert seen["cut"] == []


def test_one_atlas_shows_every_target_and_measure_and_marks_what_to_use(kept_page, tmp_path):
    seen = drive(kept_page("quick"), tmp_path, _SWITCH)
    assert seen["errors"] == []
    shown = seen["shown"]
    assert list(shown) == json.loads((KEPT / "quick" / "run.json").read_text(encoding="utf-8"))["targets"]
    assert shown["cpu"]["measures"] == ["time", "traffic", "launches", "error"]
    assert shown["cpu"]["first"] == "time"  # a measured time outranks bytes
    assert shown["h200"]["first"] == "predicted"  # and a prediction outranks bytes
    for target in shown.values():
        assert target["rows"] >= 5
        assert set(target["best"]) <= {0, 1}
        assert all(use == cell for use, cell in target["use"])
    assert any(text not in ("", "–") for text in seen["errors_shown"])
    assert seen["plot"] == [True, True]
    few, every = seen["columns"]
    assert few <= 15 < every


@_AUDITED
@pytest.mark.parametrize(("width", "dark"), [(1400, False), (390, True)])
def test_axe_finds_nothing_serious(kept_page, tmp_path, width, dark):
    seen = drive(kept_page("quick"), tmp_path, axe() + _AUDIT, width, dark)
    for part in ("page", "dialog"):
        assert seen[part]["bad"] == []
        assert seen[part]["rules"] >= 10  # it looked at something
    assert seen["command"].startswith("normbench explain")


@_AUDITED
def test_axe_is_heard(tmp_path):
    broken = tmp_path / "broken.html"
    broken.write_text(
        '<!doctype html><html><head><title>Broken</title></head><body><main><h1 style="color: #bbb">Soft</h1></main>',
        encoding="utf-8",
    )
    found = drive(broken, tmp_path, axe() + "result.page = await audit(document);")["page"]["bad"]
    assert {line.split(":")[0] for line in found} == {"color-contrast", "html-has-lang"}


def test_the_answers_headings_are_in_order_of_evidence(kept_page):
    text = kept_page("quick").read_text(encoding="utf-8")
    places = [text.index(f'id="{name}"') for name in ("answer", "findings", "atlas", "plots", "cases", "environment")]
    assert all(before < after for before, after in pairwise(places))
