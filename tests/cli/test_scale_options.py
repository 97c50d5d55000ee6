"""The options that spread a study over machines and over time: --shard, --workers, --cache, --no-cache."""

import json

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from normbench.cases.case import Case
from normbench.cli import main as cli
from normbench.kernels import Problem
from normbench.study.schedule import study as studies
from normbench.study.schedule.units import by_problem, shard

CASES = [
    Case(Problem("batch_norm", (2, 4, 3, side), dtype=dtype), name)
    for side in range(3, 8)
    for dtype in ("float32", "float64")
    for name in ("naive", "folded")
]


@given(st.integers(1, 15))
def test_shards_hold_every_case_once_and_each_problem_whole(count):
    parts = [shard(CASES, number + 1, count) for number in range(count)]
    assert sorted(case.slug for part in parts for case in part) == sorted(case.slug for case in CASES)
    for part in parts:
        assert all(len(group) == 2 for _, group in by_problem(part))
    assert max(map(len, parts)) - min(map(len, parts)) <= 2


@pytest.fixture
def studied(monkeypatch, tmp_path):
    """The configurations of studies that are not carried out."""
    found = []
    monkeypatch.setattr(studies, "study", lambda config: found.append(config))
    monkeypatch.setattr("normbench.cli.study._conclude", lambda folder, full: 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.chdir(tmp_path)

    def study(*options):
        assert cli.main(["study", "batch_norm", "--preset", "smoke", "--target", "cpu", *options]) == 0
        return found[-1]

    return study


def test_a_shard_is_a_part_that_says_so(studied):
    whole, parts = studied(), [studied("--shard", f"{number}/2") for number in (1, 2)]
    assert (whole.shard, parts[1].shard) == ("", "2/2")
    assert {case for part in parts for case in part.cases} == set(whole.cases)
    assert len(parts[0].cases) + len(parts[1].cases) == len(whole.cases)


def test_compilations_are_kept_in_the_users_cache_or_where_he_says_or_not(studied, tmp_path):
    assert studied().cache == str(tmp_path / "xdg" / "normbench" / "programs")
    assert studied("--cache", "shared").cache == str(tmp_path / "shared")
    assert studied("--no-cache").cache is None
    assert studied("--workers", "7").workers == 7


def test_a_run_does_not_say_which_cache_is_read_or_written(studied, tmp_path):
    stored = json.loads(json.dumps(studied("--cache", "shared").to_json()))
    assert "cache" not in stored
    assert studies.StudyConfig.from_json(stored, tmp_path).cache is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--shard", "0/2"], "shard '0/2'"),
        (["--shard", "3/2"], "I from 1 to N"),
        (["--shard", "2"], "e.g. 2/5"),
        (["--shard", "-1/2"], "shard"),
        (["--shard", "99/99"], "nothing is left for it"),
        (["--workers", "0"], "workers 0"),
        (["--cache", "x", "--no-cache"], "give one of them"),
        (["--cache", __file__], "is not a folder"),
        (["--resume", "x", "--shard", "1/2"], "leave out --shard"),
    ],
)
def test_what_makes_no_sense_is_one_line(capsys, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    selection = [] if "--resume" in options else ["batch_norm", "--preset", "smoke", "--target", "cpu"]
    assert cli.main(["study", *selection, *options]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert words in err


def test_shards_of_a_study_are_united_to_the_whole_study(tmp_path, capsys):
    pytest.importorskip("jax_cuda13_plugin")
    own = [
        "batch_norm",
        "--shape",
        "2x4x3x5",
        "2x4x3x6",
        "--variant",
        "naive",
        "folded",
        "--target",
        "h200",
        "--no-cache",
    ]
    for options in (["--out", "whole"], ["--out", "a", "--shard", "1/2"], ["--out", "b", "--shard", "2/2"]):
        assert (
            cli.main(["study", *own, "--no-cache", "--workers", "1", "--out", str(tmp_path / options[1]), *options[2:]])
            == 0
        )
    whole, first, second = (next((tmp_path / name).iterdir()) for name in ("whole", "a", "b"))
    assert cli.main(["merge", str(first), str(second), "--into", str(tmp_path / "all")]) == 0
    key = ["case", "target"]
    for name, more in (("compiled", []), ("launches", ["index"])):
        found, wanted = (
            pd.read_parquet(run / f"{name}.parquet").sort_values([*key, *more]).reset_index(drop=True)
            for run in (tmp_path / "all", whole)
        )
        times = [
            column for column in ("lower_s", "compile_s", "read_s", "predict_s", "module_sha256") if column in found
        ]
        pd.testing.assert_frame_equal(found.drop(columns=times), wanted.drop(columns=times))
    modules = [len(list((run / "hlo").rglob("*.zst"))) for run in (tmp_path / "all", whole)]
    assert modules[0] == modules[1]  # their names hold a number that XLA counts up in each process
