"""The fusion picture: every launch is a box, every byte a line, every refusal a dashed line with its reason."""

import json
import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import pytest

from normbench.display.palette import INK
from normbench.explanation.picture import fusion_picture
from normbench.explanation.picture_rows import MAX_BOXES, boxes

_SVG = "{http://www.w3.org/2000/svg}"
_BIG = 100_000_000


def _row(name, inputs, results=(), refused=(), **columns):
    read = sum(size for _, size in inputs)
    row = {"name": name, "kind": "loop", "ops": "add", "source_ops": "sub,mul", "read_bytes": read, "write_bytes": 4096}
    flows = {"inputs": json.dumps(inputs), "results": json.dumps(results), "refused": json.dumps(refused)}
    return {**row, **flows, **columns}


_ROWS = [
    _row("mean", [["x", _BIG]], refused=[[[1, 2], "it ends in a reduction"]]),
    _row("variance", [["x", _BIG], [0, 4096]]),
    _row("apply", [["x", _BIG], ["gamma", 512], ["beta", 512], [0, 4096], [1, 4096]], [_BIG]),
]
_COMPILED = {"bytes": 4 * _BIG, "minimum_bytes": 2 * _BIG, "traffic_ratio": 2.0}


def _drawn(rows=_ROWS, compiled=_COMPILED, title="norm <f> & \x07"):
    return ElementTree.fromstring(fusion_picture(title, rows, compiled).svg)


def _texts(picture):
    return [element.text for element in picture.iter(f"{_SVG}text")]


def test_says_what_moves_and_what_would_have_to():
    texts = _texts(_drawn())
    assert texts[0] == "norm <f> &"
    assert "3 launches, 400.0 MB moved: 2.00 times the minimum" in texts
    assert {"200.0 MB", "400.0 MB", "minimum", "moved"} <= set(texts)


def test_marks_what_is_read_again_and_gathers_small_arguments():
    texts = _texts(_drawn())
    assert texts.count("x") == 1
    assert texts.count("x again") == 2
    assert "gamma, beta" in texts
    assert "result" in texts


def test_dashes_a_refusal_to_each_launch_and_gives_its_reason():
    picture = _drawn()
    dashed = [path for path in picture.iter(f"{_SVG}path") if path.get("stroke-dasharray")]
    assert len(dashed) == 1 + 2  # the legend's and one per consumer
    assert "not fused: it ends in a reduction" in _texts(picture)


def test_lines_are_as_wide_as_their_bytes():
    picture = _drawn()
    widths = {float(path.get("stroke-width")) for path in picture.iter(f"{_SVG}path")}
    assert max(widths) == pytest.approx(11.0)
    assert min(widths) == pytest.approx(1.4)


def test_boxes_do_not_overlap_and_all_lies_within_the_picture():
    picture = _drawn()
    width, height = map(float, picture.get("viewBox").split()[2:])
    rects = [tuple(float(r.get(side)) for side in ("x", "y", "width", "height")) for r in picture.iter(f"{_SVG}rect")]
    launches = [rect for rect in rects if rect[3] > 20]
    assert len(launches) == 3
    assert all(above[1] + above[3] < below[1] for above, below in pairwise(launches))
    assert all(x >= 0 and y >= 0 and x + w <= width and y + h <= height for x, y, w, h in rects)
    assert all(0 < float(text.get("y")) < height for text in picture.iter(f"{_SVG}text"))


def test_a_long_program_of_equal_launches_ends_in_one_box_for_the_rest():
    rows = [_row(f"launch{n}", [[n - 1, 4096]] if n else [["x", _BIG]]) for n in range(40)]
    found = boxes(rows)
    assert len(found) == MAX_BOXES
    assert found[-1].count == 40 - MAX_BOXES + 1
    assert sum(box.read_bytes for box in found) == sum(row["read_bytes"] for row in rows)
    assert found[-1].inner == ((MAX_BOXES - 2, 4096),)
    assert f"{40 - MAX_BOXES + 1} more launches" in _texts(_drawn(rows))


def test_of_a_long_program_the_launches_that_move_most_are_drawn_apart_in_their_order():
    large = {5: 3, 50: 2, 51: 4, 199: 1}
    rows = [_row(f"launch{n}", [["x", _BIG * large.get(n, 0) + 8]]) for n in range(200)]
    found = boxes(rows, most=7)
    assert [(box.label, box.count) for box in found] == [
        ("", 5), ("5", 1), ("", 44), ("50", 1), ("51", 1), ("", 147), ("199", 1),
    ]  # fmt: skip
    assert sum(box.count for box in found) == 200
    assert sum(box.read_bytes for box in found) == sum(row["read_bytes"] for row in rows)
    assert [box.index for box in found] == list(range(7))


def test_what_flows_and_is_refused_in_a_long_program_keeps_its_ends():
    rows = [_row(f"launch{n}", [[n - 1, 64]] if n else [["x", 64]], refused=[[[n + 1], "so"]]) for n in range(100)]
    rows[60] = _row("large", [[2, _BIG], [59, 64]], [_BIG], refused=[[[61, 99], "so"]])
    first, large, last = boxes(rows, most=3)
    assert (first.count, large.count, last.count) == (60, 1, 39)
    assert large.inner == ((0, _BIG),)
    assert large.refused == (((2,), "so"),)
    assert last.inner == ((1, 64),)
    assert first.inner == ()


def test_a_launch_in_a_loop_that_reads_its_own_result_has_no_line_to_itself():
    (box,) = boxes([_row("step", [[0, 64], ["x", 64]])])
    assert box.inner == ()


def test_loops_and_branches_are_marked():
    rows = [
        _row("layer", [["x", _BIG]], repetitions=8, repetitions_known=True, branch=None),
        _row("step", [["x", _BIG]], repetitions=1, repetitions_known=False, branch=None),
        _row("side", [["x", _BIG]], repetitions=1, repetitions_known=True, branch="1 of 3 branches"),
    ]
    texts = _texts(_drawn(rows))
    assert "x8, loop" in texts
    assert "x?, loop" in texts
    assert "one of 3 branches, loop" in texts
    assert "3 launches, 10 executed, 400.0 MB moved: 2.00 times the minimum" in texts


def test_of_many_arguments_the_largest_are_drawn_one_by_one_and_the_rest_as_one():
    (box,) = boxes([_row("f", [[f"w{n}", _BIG + n] for n in range(20)])])
    assert [argument.name for argument in box.arguments] == [f"w{n}" for n in range(19, 13, -1)] + ["14 more arguments"]
    assert sum(argument.size for argument in box.arguments) == 20 * _BIG + sum(range(20))


def test_lists_are_drawn_as_json_is():
    as_lists = [{**row, **{name: json.loads(row[name]) for name in ("inputs", "results", "refused")}} for row in _ROWS]
    assert fusion_picture("f", as_lists, _COMPILED) == fusion_picture("f", _ROWS, _COMPILED)


@pytest.mark.parametrize("absent", [None, float("nan")])
def test_rows_of_a_run_without_flows_are_drawn_as_boxes_alone(absent):
    rows = [{**_ROWS[0], "inputs": absent, "results": absent, "refused": absent, "source_ops": absent}]
    picture = _drawn(rows, {"bytes": 0, "minimum_bytes": 0, "traffic_ratio": absent})
    assert "1 launch, 0 B moved" in _texts(picture)


def test_inline_it_takes_the_colour_of_the_page(tmp_path):
    picture = fusion_picture("f", _ROWS, _COMPILED)
    assert picture._repr_svg_() == picture.write(tmp_path / "f.svg").read_text()
    assert INK in picture.svg
    assert INK not in picture.inline()
    assert re.match(r"<svg style='max-width:100%", picture.inline())
