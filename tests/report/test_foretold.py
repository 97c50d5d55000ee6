"""Which variant is predicted to be the fastest: ranges decide whether it is told, and nothing reads as measured."""

import pandas as pd
import pyarrow as pa
import pytest

from normbench.predict.known_error import told_apart
from normbench.report.data.frames import conform
from normbench.report.findings.foretold import foretold, foretold_lines
from normbench.run_folder import arrow_schema


def summary(*variants, problem="a"):
    rows = [
        {"operator": "rms_norm", "pass": "forward", "target": "h200", "problem": problem, "status": "ok",
         "variant": name, "bytes": size, "launches": launches, "predicted_s": seconds,
         "predicted_low_s": seconds and 0.9 * seconds, "predicted_high_s": seconds and 1.15 * seconds}
        for name, size, launches, seconds in variants
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_a_variant_that_is_far_off_is_told_apart_and_one_that_is_near_is_not():
    found = foretold(summary(("naive", 100, 2, 60e-6), ("fused", 100, 1, 30e-6), ("folded", 90, 3, 32e-6)))
    assert found.fastest == "fused"
    assert found.alike == ("folded",)
    assert found.least_traffic == ("folded",)


def test_of_the_fewest_bytes_the_fewest_launches():
    found = foretold(summary(("naive", 100, 2, 60e-6), ("fused", 100, 1, 30e-6)))
    assert found.least_traffic == ("fused",)


def test_told_apart_grows_with_the_ranges():
    assert told_apart((1.0, 0.9, 1.1), (1.3, 1.2, 1.4))
    assert not told_apart((1.0, 0.5, 1.5), (1.3, 1.2, 1.4))
    assert not told_apart((1.0, 0.9, 1.1), (1.0, 0.9, 1.1))


def test_sentences_say_that_they_predict():
    one = summary(("naive", 100, 2, 60e-6), ("fused", 100, 1, 30e-6), ("folded", 90, 3, 32e-6))
    (line,) = foretold_lines(one)
    assert line == (
        "rms_norm forward, h200: predicted fastest is fused (30.0 µs, between 27.0 µs and 34.5 µs), within the model's "
        "error of folded; fewest bytes: folded."
    )
    (line,) = foretold_lines(pd.concat([one, summary(("naive", 9, 1, 5e-6), ("fused", 9, 1, 9e-6), problem="b")]))
    assert "predicted fastest is fused, in 1 of 2 problems, in 1 of them within the model's error of another" in line


def test_what_has_no_prediction_is_left_out():
    assert foretold_lines(summary(("naive", 100, 2, None), ("fused", 100, 1, 30e-6))) == []


@pytest.mark.parametrize("table", ["compiled", "launches"])
def test_an_older_run_s_prediction_was_by_bytes(table):
    old = conform(pa.table({"case": ["a"], "predicted_s": [1e-6]}), arrow_schema(table))
    assert old.column("bytes_s").to_pylist() == [1e-6]
    assert old.column("predicted_s").to_pylist() == [None]
