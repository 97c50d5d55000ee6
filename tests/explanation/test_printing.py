"""What is printed: at most a screen, equal things once with their number, and nothing left out of everything."""

import json
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from normbench import explain
from normbench.errors import UserError
from normbench.explanation import tables
from normbench.explanation.groups import SHOWN, Group, groups, how_often, shown_and_rest
from normbench.explanation.parts import Parts
from normbench.explanation.render import footnotes, rest_line
from normbench.explanation.sentences import hints_together, refusals_together
from normbench.fusion.refusals import Refusal
from tests.explanation.programs import array, row


def launches(count, **columns):
    """Equal launches but for their names and places."""
    return [row(f"fusion.{n}", [["x", 1000]], index=n, **columns) for n in range(count)]


def loop(repetitions=8, known=True, branch=None):
    return {"repetitions": repetitions, "repetitions_known": known, "branch": branch}


@pytest.mark.parametrize(
    ("columns", "count", "expected"),
    [
        ({}, 1, ""),
        ({}, 12, "12 launches"),
        (loop(), 1, "x8"),
        (loop(), 12, "12 launches x8"),
        (loop(1), 1, ""),
        (loop(1, False), 1, "x?"),
        (loop(1, True, "1 of 3 branches"), 1, "one of 3 branches"),
        (loop(8, True, "1 of 3 branches"), 2, "2 launches x8, one of 3 branches"),
        (loop(float("nan"), float("nan"), float("nan")), 1, ""),
    ],
)
def test_how_often_a_launch_runs_is_told(columns, count, expected):
    (group,) = groups(launches(count, **columns))
    assert how_often(group) == expected


def test_a_loop_of_unknown_length_is_explained_below():
    assert footnotes(launches(2)) == []
    assert footnotes(launches(2, **loop(1, False))) == ["x?: 2 launches in a loop: length unknown, counted once"]


def test_equal_launches_stand_together_and_others_do_not():
    rows = launches(3) + launches(2, read_bytes=999) + launches(1, kind="reduction") + launches(2, **loop())
    found = groups(rows)
    assert [len(group.rows) for group in found] == [3, 2, 1, 2]
    assert sum(group.bytes for group in found) == sum(one["read_bytes"] + one["write_bytes"] for one in rows)


def test_a_program_that_fits_is_shown_in_its_order_and_a_longer_one_by_what_moves():
    shown, rest = shown_and_rest(launches(SHOWN))
    assert [len(group.rows) for group in shown] == [1] * SHOWN
    assert rest == []
    rows = [row(f"f{n}", [["x", n]], index=n) for n in range(SHOWN + 5)]
    shown, rest = shown_and_rest(rows)
    assert [group.first["index"] for group in shown] == list(range(SHOWN + 4, 4, -1))
    assert sorted(one["index"] for one in rest) == [0, 1, 2, 3, 4]
    assert rest_line(rest, 10 * (4096 * 5 + 10)) == "and 5 launches: 0.020 MB, 10.0 % of all"


def test_launches_of_several_layers_share_a_scope_with_a_star():
    rows = [row("f", [], scope=f"model/layers_{n}/attention") for n in range(12)]
    assert Group(tuple(rows)).scope == "model/layers_*/attention"
    assert Group(tuple(rows[:1])).scope == "model/layers_0/attention"
    assert Group((rows[0], row("g", [], scope="head"))).scope == ""


def test_hints_of_one_kind_are_told_once_by_the_largest():
    copies = [f"copy: copy.{n} moves {n + 1}.0 kB only to copy" for n in range(40)] + [
        "copy: copy.99 moves 1.5 MB only"
    ]
    told = hints_together([*copies, "row length: 16385"])
    assert told == ["copy: copy.99 moves 1.5 MB only (40 more of this kind)", "row length: 16385"]
    assert hints_together(copies[:3]) == copies[:3]


def test_refusals_for_one_reason_are_told_once_by_the_largest():
    made = [SimpleNamespace(name=f"f.{n}", write_bytes=10 * n) for n in range(9)]
    refused = [Refusal(n, (n + 1,), "op", f"no gain: {n}.5 us fused, {n}.25 us apart", "") for n in range(7)]
    refused.append(Refusal(7, (8,), "op", "it ends in a reduction", ""))
    told = refusals_together(refused, made)
    assert told == [
        "7 launches, for one reason; the largest: f.6 was not fused into f.7: no gain: 6.5 us fused, 6.25 us apart",
        "f.7 was not fused into f.8: it ends in a reduction",
    ]
    assert refusals_together(refused[:2], made) == [one.sentence(tuple(made)) for one in refused[:2]]


def _rows():
    in_loop = {"source": "m.py:3", "predicted_s": 1e-6, **loop()}
    rows = [
        *[row(f"a.{n}", [["x", 4000]], index=n, scope=f"net/layer_{n}/norm", **in_loop) for n in range(3)],
        row("b", [["x", 100_000]], index=3, scope="net/head/dense", source="m.py:9", predicted_s=5e-6, **loop(1)),
        row("c", [["x", 10]], index=4, scope=None, source=None, predicted_s=1e-6, **loop(1)),
    ]  # fmt: skip
    return rows


def test_top_has_the_largest_groups_first_with_their_shares():
    found = tables.top(_rows(), 2)
    assert found["name"].tolist() == ["b", "a.0"]
    assert found["launches"].tolist() == [1, 3]
    assert found["executed"].tolist() == [1, 24]
    assert found["how_often"].tolist() == ["", "3 launches x8"]
    assert found["scope"].tolist() == ["net/head/dense", "net/layer_*/norm"]
    assert found["bytes"].tolist() == [104_096, 3 * 8096]
    assert tables.top(_rows(), 9)["share"].sum() == pytest.approx(1.0)
    assert found["predicted_s"].tolist() == pytest.approx([5e-6, 3e-6])
    for number in (0, "a", 1.5, True):
        with pytest.raises(UserError, match=f"number is {number!r}; allowed: 1 or more"):
            tables.top(_rows(), number)


def test_what_several_parts_compute_is_a_row_of_its_own():
    rows = _rows()
    parts = [Parts(frozenset(["net/a"]), frozenset(["m.py:1"]), "forward") for _ in rows]
    parts[0] = Parts(frozenset(["net/a", "net/b"]), frozenset(["m.py:1"]), "backward")
    found = tables.by_scope(rows, parts, 2)
    first = rows[0]["read_bytes"] + rows[0]["write_bytes"]
    assert found["bytes"].sum() == sum(one["read_bytes"] + one["write_bytes"] for one in rows)
    assert found.loc["shared", ["launches", "bytes", "backward_bytes"]].tolist() == [1, first, first]
    assert found.loc["net/b", ["launches", "bytes", "shared_launches", "shared_bytes"]].tolist() == [0, 0, 1, first]
    assert found.loc["net/a", "forward_bytes"] == found.loc["net/a", "bytes"]
    assert tables.by_scope(rows, parts, 1).index.tolist() == ["net"]


def test_by_scope_and_by_source_sum_to_the_whole():
    rows = _rows()
    whole = sum(one["read_bytes"] + one["write_bytes"] for one in rows)
    parts = [Parts(frozenset([row["scope"] or ""]), frozenset([row["source"] or ""]), "forward") for row in rows]
    for found in (tables.by_scope(rows, parts, 1), tables.by_scope(rows, parts, 3), tables.by_source(rows, parts)):
        assert found["bytes"].sum() == whole
        assert found["bytes"].is_monotonic_decreasing
        assert found["launches"].sum() == 5
    assert tables.by_scope(rows, parts, 1).index.tolist() == ["net", ""]
    assert tables.by_scope(rows, parts, 2).loc["net/layer_1", "executed"] == 8
    assert tables.by_source(rows, parts).loc["m.py:3", "bytes"] == 3 * 8096
    for depth in (0, "a", None):
        with pytest.raises(UserError, match=f"depth is {depth!r}; allowed: 1 or more"):
            tables.by_scope(rows, parts, depth)


def _long(x):
    """Twenty different products and sums: too many launches for a screen."""
    found = []
    for n in range(20):
        found.append(jax.nn.softmax(x[: 128 + n] @ x[: 128 + n].T) @ x[: 128 + n])
    return found


@pytest.fixture(scope="module")
def long_report():
    return explain(_long, array(256, 256), target="cpu")


def test_a_long_report_fits_a_screen_and_holds_everything_on_request(long_report):
    text = repr(long_report)
    assert len(text.splitlines()) < 60
    assert max(map(len, text.splitlines())) <= 150
    full = long_report.text(full=True)
    assert len(full.splitlines()) > len(long_report.launches) > SHOWN
    for name in long_report.launches["name"]:
        assert name[:35] in full
    whole = long_report.bytes / 1e6
    assert f"{len(long_report.launches)} launches, {whole:.1f} MB" in text


def test_a_long_page_folds_the_rest_away(long_report):
    page = long_report._repr_html_()
    head, _, folded = page.partition("<details>")
    assert head.count("<tr>") == SHOWN + 1
    assert page.count("<tr>") == SHOWN + 1 + len(long_report.launches) + 1
    assert folded.startswith("<summary>and ")
    assert folded.count("</details>") == folded.count("<details>") + 1
    assert "<svg " in folded
    assert "<svg " not in head


def test_the_picture_needs_no_json(long_report, monkeypatch):
    monkeypatch.setattr(json, "loads", lambda text: pytest.fail("JSON was read"))
    assert replace(long_report).picture.svg.startswith("<svg ")


def test_a_prediction_is_called_one():
    report = explain(lambda x: jnp.tanh(x), array(64, 64))
    assert "predicted (not measured)" in repr(report)
    assert "predicted us" in repr(report)
    assert "predicted us" in report._repr_html_()


def _loops(x, n):
    x = jax.lax.fori_loop(0, 8, lambda _, y: jnp.tanh(y @ y), x)
    x = jax.lax.while_loop(lambda c: c[1] < n, lambda c: (jnp.sin(c[0] @ c[0]), c[1] + 1), (x, 0))[0]
    return jax.lax.switch(n, [jnp.sin, jnp.cos, lambda x: x @ x], x)


def test_loops_and_branches_stand_in_the_open():
    report = explain(_loops, array(64, 64), array(dtype=jnp.int32))
    text = report.text()
    assert report.executed_launches >= len(report.launches) + 7
    assert f"{len(report.launches)} launches, {report.executed_launches} executed, " in text
    assert "x8" in text.split()
    assert "x?" in text.split()
    assert "one of 3 branches" in text
    assert "length unknown, counted once" in text
    assert "x8" in report.picture.svg
    assert "FLOP in matrix products" in text
    assert "least between barriers" in text


def test_the_assembler_is_not_asked_for_what_is_printed(monkeypatch):
    report = explain(lambda x: jnp.tanh(x), array(32, 64))
    monkeypatch.setattr("subprocess.run", lambda *a, **k: pytest.fail("a program was started"))
    for made in (report.text(), report._repr_html_(), report.top(), report.by_scope(), report.picture.svg):
        assert len(made) > 0
