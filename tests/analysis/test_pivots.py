"""The table of where a pivot holds: the figures in the repository are those of the command, in kind."""

import math

import pytest

from analysis.pages.pivots import DATA, NEAR, PAGE, PROBLEMS, RESULTS, arrays_of, page, pivot_distance, read, rows_of

ROWS = read()
CHOSEN = [
    (PROBLEMS[0], DATA[1]),  # the running mean has followed the data
    (PROBLEMS[0], DATA[4]),  # the first step of training
    (PROBLEMS[1], DATA[6]),  # an outlier at the head of a row
    (PROBLEMS[3], DATA[0]),
]


def errors(rows):
    return {(row["operator"], row["data"], row["variant"]): row["max_rel"] for row in rows}


@pytest.mark.parametrize(("problem", "data"), CHOSEN, ids=lambda value: getattr(value, "operator", None) or value.name)
def test_figures_reproduce_in_kind(problem, data):
    stored = errors(ROWS)
    for key, found in errors(rows_of(problem, data)).items():
        assert 0.1 < found / stored[key] < 10, key  # another order of the sums moves them


def test_a_pivot_near_the_mean_costs_at_most_four_times_the_error_of_two_passes():
    stored = errors(ROWS)
    near = {(row["operator"], row["data"]) for row in ROWS if row["pivot_distance"] <= NEAR}
    assert len(near) >= 20
    for key in near:
        assert stored[*key, "pivoted"] <= 4 * stored[*key, "naive"], key


def test_the_table_shows_where_a_pivot_fails_for_every_operator():
    stored = errors(ROWS)
    worse = {key[0] for key in stored if stored[*key[:2], "pivoted"] > 4 * stored[*key[:2], "naive"]}
    assert worse == {problem.operator for problem in PROBLEMS}


def test_the_page_is_made_of_the_figures():
    assert PAGE.read_text(encoding="utf-8") == page(ROWS)
    assert RESULTS.is_file()


def test_the_pivot_lies_where_it_is_said_to_lie():
    training = PROBLEMS[0]
    for data in DATA[2:5]:
        assert pivot_distance(training, arrays_of(training, data)) == pytest.approx(abs(data.pivot), rel=0.05)
    assert math.isclose(pivot_distance(PROBLEMS[1], arrays_of(PROBLEMS[1], DATA[2])), 10, rel_tol=0.1)
