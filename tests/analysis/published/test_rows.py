"""The published figures keep their schema, and the draw of those kept apart is what its seed gives."""

import csv
from collections import Counter

import pytest

from analysis.published.draw import SEED, draw
from analysis.published.rows import COLUMNS, FOLDER, FORMS, kept_apart, published, read_row, sources
from normbench.errors import UserError

with (FOLDER / "times.csv").open(newline="", encoding="utf-8") as file:
    RAW = list(csv.DictReader(file))
HOST = next(row for row in RAW if float(row["host_s"]))


def test_there_are_rows_enough_to_judge_by():
    rows = published()
    assert len(rows) >= 60
    assert len({row.family for row in rows}) >= 4
    assert len({row.device for row in rows}) >= 3
    assert {row.form for row in rows} == set(FORMS)


def test_every_source_says_how_time_was_taken_and_where_it_is():
    assert {row.source for row in published()} == set(sources())
    for source in sources().values():
        assert all((source.clock, source.cache, source.version))
        assert source.address.startswith("https://")
        assert source.host_in_time == any(row.host_s for row in published() if row.source == source.source)


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("device", "v100", "unknown device of"),
        ("operator", "batch_norm", "unknown operator of"),
        ("pass", "both", "unknown pass of"),
        ("dtype", "f32", "unknown dtype of"),
        ("form", "cuda", "unknown form of"),
        ("unit", "cycles", "unknown unit of"),
        ("settings", '{"wide": 1}', "takes no wide"),
        ("figure", "fast", "allowed: a number"),
        ("time_s", "1.0", "was published"),
        ("host_s", "1.0", "allowed: less than time_s"),
        ("host_s", "0.0", "with its evidence beside it"),
        ("shaped_before", "maybe", "allowed: yes, no"),
    ],
)
def test_a_row_that_breaks_the_schema_is_refused_by_its_name(column, value, says):
    with pytest.raises(UserError, match=says) as refused:
        read_row({**HOST, column: value})
    assert HOST["id"] in str(refused.value)


def test_the_columns_are_those_of_the_record():
    assert set(RAW[0]) == set(COLUMNS)


def test_the_rows_kept_apart_are_what_the_seed_draws():
    with (FOLDER / "kept_apart.csv").open(newline="", encoding="utf-8") as file:
        committed = [(row["id"], row["source"]) for row in csv.DictReader(file)]
    assert committed == draw(published(), SEED)
    assert draw(published(), SEED + 1) != committed


def test_at_least_a_third_is_kept_apart_of_every_source_and_of_all():
    apart = kept_apart()
    fresh = Counter(row.source for row in published() if not row.shaped_before)
    drawn = Counter(row.source for row in published() if row.id in apart)
    assert all(3 * drawn[source] >= count for source, count in fresh.items())
    assert 3 * len(apart) >= len(published())
    assert not any(row.shaped_before for row in published() if row.id in apart)


def test_a_draw_from_one_source_does_not_depend_on_another():
    rows = [row for row in published() if row.source != "sglang"]
    assert draw(rows) == [pair for pair in draw(published()) if pair[1] != "sglang"]
