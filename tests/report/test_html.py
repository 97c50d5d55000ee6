"""The report: one file, nothing loaded, nothing that came from the data read as markup."""

import base64
import html.parser
import json
import re
import zlib

import pytest

from normbench.errors import UserError
from normbench.report import load_run, write_report
from normbench.report.data.summary import digest
from normbench.report.page.report import render
from normbench.schema import STATUSES
from tests.report.synthetic_runs import UGLY, accuracy_row, case_row, compiled_rows, full_tables, timing_rows, trouble


def _spelled(value):
    """A list of words that is written with each word once, as the page's script reads it."""
    return [value["words"][place] for place in value["places"]] if value.keys() == {"words", "places"} else value


class _Page(html.parser.HTMLParser):
    """Tags with their attributes, and the text of each <script> by its id."""

    def __init__(self, text):
        super().__init__()
        self.text, self.tags, self.scripts, self._script = text, [], {}, None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "script":
            self._script = dict(attributes).get("id", "code")

    def handle_endtag(self, tag):
        if tag == "script":
            self._script = None

    def handle_data(self, data):
        if self._script:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data

    def json(self, name):
        return json.loads(self.scripts[name], object_hook=_spelled)

    def packed(self, name):
        return json.loads(zlib.decompress(base64.b64decode(self.scripts[name])))


def _rows(table, case):
    return [dict(zip(table["columns"], row, strict=True)) for row in table["rows"][case]]


@pytest.fixture(scope="module")
def page(run):
    return _Page(render(run))


def test_nothing_is_loaded(page):
    loading = {"src", "srcset", "data", "poster", "action", "background", "ping"}
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "img")
        assert not loading & attributes.keys()
        for name in ("href", "xlink:href"):
            assert attributes.get(name, "#").startswith("#")
    policy = next(each["content"] for tag, each in page.tags if each.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_style_sheet_names_no_address(page):
    assert not re.search(r"@import|url\((?!#)", render.__globals__["_asset"]("report.css"))


def test_table_has_every_row_and_column_with_its_numbers(page, run):
    table = page.json("data")
    columns = {column["name"]: column for column in table["columns"]}
    summary = digest(run).summary
    assert table["cases"] == summary["case"].tolist()
    assert [value or 0 for value in columns["launches"]["values"]] == summary["launches"].fillna(0).tolist()
    for shown, seconds in zip(columns["wall_cold_median_s"]["values"], summary["wall_cold_median_s"], strict=True):
        assert shown is None if seconds != seconds else shown == pytest.approx(1e6 * seconds, rel=1e-5)
    assert "pipelined_cold_median_s" not in columns
    assert "predicted_s" not in columns


def test_findings_point_at_rows_of_the_table(page):
    table = page.json("data")
    buttons = [int(each["data-finding"]) for tag, each in page.tags if tag == "button" and "data-finding" in each]
    assert len(buttons) == len(table["findings"]) == len(table["texts"])
    for number in buttons:
        assert table["findings"][number]
        assert max(table["findings"][number]) < len(table["cases"])


def test_details_have_the_launches_the_times_and_the_command_of_each_case(page, run):
    details = page.packed("details")
    case = run.cases["case"].iloc[-1]
    launches = _rows(details["launches"], case)
    expected = run.launches[run.launches["case"] == case]
    assert [launch["name"] for launch in launches] == expected["name"].tolist()
    assert [launch["read_bytes"] for launch in launches] == expected["read_bytes"].tolist()
    assert details["commands"][case].startswith("normbench explain conv_bn prefolded --shape 1x64x56x56")
    stages = _rows(details["timed"], case)
    assert {(row["stage"], row["cache"]) for row in stages} == {
        (stage, cache) for stage in ("call", "prepare") for cache in ("cold", "warm")
    }
    assert all((row["ratio"] is None) == (row["stage"] == "prepare") for row in stages)


def test_there_is_a_plot_of_each_kind_for_each_operator(page):
    questions = re.findall(r"<option value=[^>]*>([^<]*)</option>", page.text)
    for operator in ("batch_norm", "conv_bn"):
        assert f"How long does {operator} forward take on cpu?" in questions
        assert f"What does {operator} forward move over the minimum?" in questions
        assert f"Is speed of {operator} forward on cpu paid for with error?" in questions
    assert all(question.endswith("?") for question in questions)
    assert len(questions) == 9


def test_ids_are_unique(page):
    ids = [each["id"] for _, each in page.tags if "id" in each]
    assert len(ids) == len(set(ids))


def test_whatever_the_data_say_is_text(make_run):
    cases = [case_row("batch_norm", variant, model=UGLY) for variant in ("naive", "folded")]
    cases += [{**case_row("batch_norm", "naive"), "case": UGLY, "variant": UGLY, "options": UGLY, "problem": UGLY}]
    tables = {
        "cases": cases,
        "compiled": [trouble(case, "crashed", UGLY, "h200", "compiled") for case in cases],
        "timings": timing_rows(cases[0]) + timing_rows(cases[1]),
        "accuracy": [accuracy_row(case) for case in cases],
    }
    info = {"environment": {"cpu_model": UGLY, UGLY: [UGLY]}, "command": UGLY, "preset": UGLY}
    run = load_run(make_run(tables, **info))
    page = _Page(render(run))
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert not [each for _, each in page.tags if any(name.startswith("on") for name in each)]
    assert [tag for tag, _ in page.tags].count("script") == 7
    assert page.json("data")["cases"][-1] == UGLY
    assert page.packed("details")["compiled"]["rows"][UGLY][0][2] == UGLY


def test_every_status_is_reported(make_run):
    statuses = [status for status in STATUSES if status != "ok"]
    cases = [case_row("conv_bn", "folded", f"1x8x{size}x8") for size in range(len(statuses))]
    pairs = zip(cases, statuses, strict=True)
    compiled = [trouble(case, status, f"why {status}", "h200", "compiled") for case, status in pairs]
    text = render(load_run(make_run({"cases": cases, "compiled": compiled})))
    columns = {column["name"]: column["values"] for column in _Page(text).json("data")["columns"]}
    assert columns["status"] == statuses
    assert columns["reason"] == [f"why {status}" for status in statuses]
    assert "On h200, of 8 cases 1 unsupported, 1 failed, 1 crashed, 1 out of memory, 1 timeout" in text


def test_unfinished_run_says_so(make_run):
    tables = full_tables(shapes=("8x16x32x32",), dtypes=("float32",))
    text = render(load_run(make_run(tables, status="running")))
    assert "This run is not finished (status: running)" in text


def test_run_that_was_only_compiled_says_so_and_draws_no_times(make_run):
    text = render(load_run(make_run(full_tables(targets=("h200", "b200")))))
    assert "This run holds no times" in text
    assert "What does conv_bn forward move over the minimum?" in text
    assert "How long does" not in text


def test_empty_run_makes_a_report(make_run):
    text = render(load_run(make_run({}, environment={}, cost={})))
    assert "No row of this run bears a finding" in text
    assert "Nothing to draw" in text


def test_infinite_error_is_no_broken_json(make_run):
    case = case_row("batch_norm", "naive")
    run = load_run(make_run({"cases": [case], "accuracy": [accuracy_row(case, max_ulp=float("inf"))]}))
    assert _Page(render(run)).packed("details")["accuracy"]["rows"][case["case"]][0][3] == "inf"


def test_report_is_written_beside_the_run_or_where_asked(make_run, tmp_path):
    run = load_run(make_run({}))
    assert write_report(run) == run.path / "report.html"
    assert write_report(run, tmp_path / "other.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert sorted(path.name for path in run.path.iterdir() if "report" in path.name) == ["report.html"]


def test_report_that_cannot_be_written_is_one_line_and_leaves_nothing(make_run, tmp_path):
    run = load_run(make_run({}))
    with pytest.raises(UserError, match="cannot be written"):
        write_report(run, tmp_path / "absent" / "report.html")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        write_report(run, tmp_path / "folder.html")
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize("place", ["absent/report.html", "."])
def test_that_a_report_cannot_be_written_is_known_before_it_is_rendered(make_run, tmp_path, monkeypatch, place):
    monkeypatch.setattr("normbench.report.page.report.render", lambda run: pytest.fail("was rendered"))
    with pytest.raises(UserError, match="cannot be written"):
        write_report(load_run(make_run({})), tmp_path / place)


def test_packed_plots_and_pictures_load_nothing_either_and_name_no_markup_of_the_data(make_run):
    case = {**case_row("batch_norm", "naive"), "case": UGLY, "problem": UGLY}
    row, launches = compiled_rows(case, "h200")
    launches[0]["name"] = UGLY
    made = _Page(render(load_run(make_run({"cases": [case], "compiled": [row], "launches": launches}))))
    drawn = [*made.packed("figures").values(), *made.packed("pictures")[UGLY].values()]
    assert drawn
    for svg in drawn:
        inner = _Page(svg)
        assert {tag for tag, _ in inner.tags}.isdisjoint({"script", "img", "image", "foreignobject", "a"})
        assert not any(name.startswith("on") for _, attributes in inner.tags for name in attributes)


def test_every_section_can_be_gone_to(page):
    sections = {attributes["id"] for tag, attributes in page.tags if tag == "section"}
    links = {attributes["href"].removeprefix("#") for tag, attributes in page.tags if tag == "a"}
    assert links >= sections >= {"answer", "findings", "trust", "model", "device", "plots"}


def test_every_plot_has_its_place(page):
    places = [attributes["data-plot"] for _, attributes in page.tags if "data-plot" in attributes]
    chosen = [attributes["value"] for tag, attributes in page.tags if tag == "option"]
    assert places[0] == chosen[0]  # the one place of those that are chosen by their question
    assert sorted({*places, *chosen}) == sorted(page.packed("figures"))
    assert len(set(chosen)) == len(chosen) > 1
