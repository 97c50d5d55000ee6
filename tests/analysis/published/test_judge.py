"""How predictions are held against what was published, on made-up predictions."""

from dataclasses import replace

import pytest

from analysis.pages import predictions as pages
from analysis.pages.predictions_plot import predictions_svg
from analysis.published.judge import Judged, Prediction, error_of, judge, order_of
from analysis.published.rows import kept_apart, published


def judged(row, factor=1.0, by_bytes=1.0, launches=1, beyond_l2=True, apart=None):
    seconds = factor * row.device_s
    told = Prediction(seconds, 0.8 * seconds, 1.2 * seconds, "a made-up bound", "tile")
    apart = row.id in kept_apart() if apart is None else apart
    return Judged(row, "the same program", launches, 1, beyond_l2, told, by_bytes * row.device_s, apart)


ROWS = published()
ALL = [judged(row, 1.1 if row.device == "h100" else 0.9, 0.5) for row in ROWS]


def test_the_error_is_of_the_predicted_against_the_device_time():
    host = next(row for row in ROWS if row.host_s)
    assert judged(host, 1.25).error == pytest.approx(0.25)
    assert judged(host, 1.25).predicted.seconds == pytest.approx(1.25 * (host.time_s - host.host_s))


def test_the_error_of_some_rows():
    rows = [judged(ROWS[0], factor, by_bytes=2) for factor in (0.5, 0.9, 1.0, 1.1, 1.3)]
    error = error_of(rows)
    assert (error.rows, error.median, error.bytes_median) == (5, pytest.approx(0.1), pytest.approx(1.0))
    assert error.high == pytest.approx(0.42)
    assert error.within == pytest.approx(3 / 5)  # 0.8 to 1.2 times what is predicted
    assert error_of([]) is None


def pair(first_s, second_s, predicted, apart=(True, True)):
    base = ROWS[0]
    times = (first_s, second_s)
    rows = [replace(base, id=str(i), time_s=time) for i, time in enumerate(times)]
    return [
        judged(row, told / row.time_s, 1.0, apart=kept) for row, told, kept in zip(rows, predicted, apart, strict=True)
    ]


def test_pairs_are_ordered_where_their_published_times_differ_enough():
    assert order_of(pair(1.0, 1.2, (3.0, 4.0))).right == 1
    wrong = order_of(pair(1.0, 1.2, (4.0, 3.0)))
    assert (wrong.pairs, wrong.right, wrong.by_bytes) == (1, 0, 1)
    assert order_of(pair(1.0, 1.2, (3.0, 3.0))).right == 0
    assert order_of(pair(1.0, 1.09, (3.0, 4.0))).pairs == 0


def test_a_pair_counts_by_what_was_kept_apart_of_it():
    one = pair(1.0, 1.2, (3.0, 4.0), (True, False))
    assert [order_of(one, of).pairs for of in ("both", "one", "any")] == [0, 1, 1]
    none = pair(1.0, 1.2, (3.0, 4.0), (False, False))
    assert [order_of(none, of).pairs for of in ("both", "one", "any")] == [0, 0, 1]


def test_rows_of_two_problems_make_no_pair():
    first, second = pair(1.0, 1.2, (3.0, 4.0))
    assert order_of([first, replace(second, row=replace(second.row, shape=(2, 2)))]).pairs == 0


def test_only_single_launches_beyond_the_l2_that_were_kept_apart_are_counted():
    row = next(row for row in ROWS if row.id in kept_apart() and row.launches == 1)
    several = next(row for row in ROWS if row.id in kept_apart() and (row.launches or 0) > 1)
    used = next(row for row in ROWS if row.shaped_before)
    rows = [judged(row), judged(row, launches=2), judged(row, beyond_l2=False), judged(several), judged(used)]
    assert pages.counted(rows) == rows[:1]


def test_the_page_words_every_time_as_published_or_predicted_and_gives_ranges():
    text = pages.page(ALL)
    assert "A prediction is no measurement" in text
    for row in ROWS:
        line = next(line for line in text.splitlines() if line.startswith(f"| `{row.id}` | {row.device} |"))
        assert " to " in line  # the range
        assert ("shaped the first version" in line) == row.shaped_before
        assert ("kept apart" in line) == (row.id in kept_apart())
    assert "measured " not in text.replace("was measured", "").replace("have\nmeasured", "").replace("measured and", "")


def test_the_committed_page_tells_of_every_published_row_and_of_no_other():
    text = pages.PAGE.read_text(encoding="utf-8")
    table = text[text.index("## Every row") :]
    listed = [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]
    assert listed == [row.id for row in ROWS]
    assert pages.PICTURE.is_file()


def test_the_page_tells_how_far_apart_the_pairs_are():
    rows = [*pair(1.0, 1.2, (4.0, 3.0)), *pair(1.0, 3.0, (3.0, 4.0)), *pair(1.0, 9.0, (1.0, 2.0), (False, False))]
    rows = [replace(one, row=replace(one.row, shape=(1 + index // 2,))) for index, one in enumerate(rows)]
    text = pages.page(rows)
    assert "| the slower takes 1.1 to 1.5 times as long | 0 of 1 |" in text
    assert "| the slower takes 1.5 to 2 times as long | 0 of 0 |" in text
    assert "| over 2 times | 1 of 1 |" in text  # the pair that was open to shaping is no test
    assert "at any distance | 1 of 2 |" in text


def test_the_readme_tells_what_the_page_reached():
    page = pages.PAGE.read_text(encoding="utf-8")
    readme = (pages.DOCS.parent / "README.md").read_text(encoding="utf-8")
    told = " ".join(readme[readme.index("### What can be believed without a device") :].split("\n\n")[0].split())

    def cells(start):
        return [cell.strip() for cell in page[page.index(start) :].splitlines()[0].strip("| ").split("|")]

    def whole(percent):
        return f"{float(percent.strip('%')):.0f} %"

    _, _, median, by_bytes, _ = cells("| median error |")
    _, _, high, high_by_bytes, _ = cells("| 90th percentile of the error |")
    assert (
        f"off by {whole(median)} (median) and {whole(high)} (90th percentile), by bytes {whole(by_bytes)} and " in told
    )
    assert f" and {whole(high_by_bytes)}; of pairs" in told
    _, _, order, order_by_bytes, _ = cells("| pairs in the right order, at least one kept apart |")
    assert f"{order} are in the right order, by bytes {order_by_bytes.split()[0]};" in told
    assert f"of kernels that fuse alone {cells('| both of them kernels that fuse')[1]}." in told
    for title, words in (("### Several launches", "Several launches: "), ("### Single launches within", "L2 cache: ")):
        row = [cell.strip() for cell in page[page.index(title) :].split("| kept apart |")[1].split("|")]
        assert f"{words}{whole(row[1])} and {whole(row[2])}" in told


def test_the_pairs_in_the_wrong_order_are_listed():
    wrong = pair(1.0, 1.2, (4.0, 3.0))
    assert "| `0` | `1` | 2 of 2 |" in pages.page(wrong)
    assert "| `0` | `1` |" not in pages.page(pair(1.0, 1.2, (3.0, 4.0)))


def test_the_picture_has_a_point_for_every_row_twice():
    svg = predictions_svg(ALL)
    assert "a prediction is no measurement" in svg
    assert svg.count("<use") >= 2 * len(ROWS)


def test_a_row_is_compiled_for_its_device_and_predicted():
    row = next(row for row in ROWS if row.id.startswith("tileops.vllm") and row.id.endswith("8192.f16"))
    one = judge(row)
    assert one.single
    assert one.beyond_l2
    assert one.predicted.low_s <= one.predicted.seconds <= one.predicted.high_s
    assert one.bytes_s == pytest.approx(4 * 2048 * 8192 * 2 / 4.8e12 + 2e-6, rel=0.01)
    assert one.predicted.bound
