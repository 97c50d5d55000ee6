"""A study ends with a row for everything, whatever a variant does to its process."""

import json
import sys

import pandas as pd
import pytest

from normbench.cases.case import Case
from normbench.errors import UserError
from normbench.kernels import Problem, registry
from normbench.report import load_run
from normbench.report.findings.noise_floor import trust
from normbench.schema import TABLES
from normbench.study.clocks.memory import known_cache_bytes
from normbench.study.schedule.store import Store
from normbench.study.schedule.study import StudyConfig, resume, study

TINY = Problem("batch_norm", (2, 4, 3, 5))
WIDE = Problem("batch_norm_training", (8, 4), "nc", "float64")
FAULTY = "tests.study.faulty_variants"


@pytest.fixture(scope="module")
def faulty_registered():
    """The registry as it was, afterwards."""
    before = {name: set(registry._VARIANTS[name]) for name in registry.operators()}
    yield
    sys.modules.pop(FAULTY, None)
    for operator, found in registry._VARIANTS.items():
        for name in set(found) - before[operator]:
            del found[name]


def config(tmp_path, **fields):
    defaults = {
        "cases": (Case(TINY, "naive"), Case(TINY, "prefolded")),
        "targets": ("cpu",),
        "out": tmp_path / "runs",
        "command": "a test",
    }
    return StudyConfig.for_preset("smoke", **{**defaults, **fields})


def tables(run):
    return {name: pd.read_parquet(run / f"{name}.parquet") for name in TABLES}


@pytest.fixture(scope="module")
def faulty_run(tmp_path_factory, faulty_registered):
    """A study of every faulty variant between two good ones."""
    names = (
        "naive", "aborts", "aborts_when_run", "exits", "raises", "hangs", "allocates", "allocates_when_run", "wrong",
        "wrong_now_and_then", "closes_over", "prints", "refuses", "folded",
    )  # fmt: skip
    cases = tuple(Case(TINY, name) for name in names)
    return study(config(tmp_path_factory.mktemp("faulty"), cases=cases, imports=(FAULTY,), case_timeout_s=12.0))


def outcomes(table):
    """variant -> (status, reason) of each row."""
    variants = table["case"].str.rpartition(".")[2]
    verdicts = table[["status", "reason"]].fillna("")
    return {name: rows.drop_duplicates().values.tolist() for name, rows in verdicts.groupby(variants)}


EXPECTED = {
    "aborts": ("crashed", "SIGABRT"),
    "aborts_when_run": ("crashed", "SIGABRT"),
    "exits": ("crashed", "exited with status 7"),
    "raises": ("failed", "TypeError: cannot do that really not"),
    "hangs": ("timeout", "compiling it took longer than 12 s"),
    "allocates": ("out_of_memory", "MemoryError"),
    "allocates_when_run": ("out_of_memory", "MB are available"),
    "wrong": ("wrong", "relative error"),
    "wrong_now_and_then": ("wrong", "not finite"),
    "closes_over": ("failed", "takes 4 of 5 inputs"),
    "refuses": ("unsupported", "not today"),
}


@pytest.mark.parametrize("variant", EXPECTED)
def test_what_goes_wrong_becomes_a_row_with_its_own_status_and_reason(faulty_run, variant):
    status, reason = EXPECTED[variant]
    for name in ("timings", "accuracy"):
        (found,) = outcomes(tables(faulty_run)[name])[variant]
        assert found[0] == status
        assert reason in found[1]
        assert "\n" not in found[1]


@pytest.mark.parametrize("variant", ["naive", "folded", "prints"])
def test_the_study_goes_on_for_the_others(faulty_run, variant):
    found = tables(faulty_run)
    for name in ("compiled", "timings", "accuracy"):
        assert {status for status, _ in outcomes(found[name])[variant]} == {"ok"}
    assert found["timings"][found["timings"]["case"].str.endswith(variant)]["seconds"].gt(0).all()


def test_what_is_wrong_or_broken_is_never_timed(faulty_run):
    timings = tables(faulty_run)["timings"]
    assert timings[timings["status"] != "ok"]["seconds"].isna().all()


def test_every_case_has_one_compiled_row_and_one_accuracy_row(faulty_run):
    found = tables(faulty_run)
    for name in ("compiled", "accuracy"):
        assert sorted(found[name]["case"]) == sorted(found["cases"]["case"])
    assert set(found["timings"]["case"]) == set(found["cases"]["case"])


def test_what_was_compiled_before_it_went_wrong_is_kept(faulty_run):
    compiled = outcomes(tables(faulty_run)["compiled"])
    assert compiled["aborts_when_run"] == [["ok", ""]]
    assert compiled["wrong"] == [["ok", ""]]
    assert compiled["aborts"][0][0] == "crashed"


@pytest.fixture(scope="module")
def good_run(tmp_path_factory):
    wide = Problem("batch_norm", (8, 4), "nc", "float64", "float64", pass_="backward")
    ours = (Case(TINY, name) for name in ("naive", "prefolded", "pallas_triton"))
    cases = (*ours, Case(wide, "folded"), Case(WIDE, "pallas_mosaic"))
    return study(config(tmp_path_factory.mktemp("good"), cases=cases, processes=2))


def test_every_clock_cache_and_process_has_samples(good_run):
    timings = tables(good_run)["timings"]
    timed = timings[timings["seconds"].notna()]
    keys = timed.groupby("case")[["stage", "clock", "cache", "process"]].agg(lambda values: sorted(set(values)))
    assert keys["process"].map(list).tolist() == [[0, 1]] * 3
    calls = timed[timed["stage"] == "call"]
    counts = calls.groupby(["case", "clock", "cache", "process"])["sample"].count()
    assert len(counts) == 3 * 2 * 2 * 2
    assert (counts >= 2).all()
    assert timed["page_faults"].ge(0).all()
    assert set(timed["stop"]) <= {"noise", "max_samples", "time"}
    assert (calls[calls["clock"] == "wall"]["calls"] == 1).all()
    assert (calls[calls["clock"] == "pipelined"]["calls"] > 1).all()


def test_only_a_variant_that_prepares_has_that_stage(good_run):
    timings = tables(good_run)["timings"]
    prepared = timings[timings["stage"] == "prepare"]
    assert set(prepared["case"].str.rpartition(".")[2]) == {"prefolded"}
    assert set(zip(prepared["clock"], prepared["cache"], strict=True)) == {("wall", "warm")}


def test_a_kernel_for_gpus_is_checked_on_a_cpu_and_not_timed(good_run):
    found = tables(good_run)
    accuracy = found["accuracy"].set_index("case")
    slug = Case(TINY, "pallas_triton").slug
    assert accuracy.loc[slug, "status"] == "ok"
    assert accuracy.loc[slug, "max_abs"] >= 0
    assert outcomes(found["timings"])["pallas_triton"][0][0] == "unsupported"
    assert outcomes(found["compiled"])["pallas_triton"][0][0] == "unsupported"


def test_what_a_kernel_takes_nowhere_is_no_failure(good_run):
    accuracy = tables(good_run)["accuracy"].set_index("case")
    row = accuracy.loc[Case(WIDE, "pallas_mosaic").slug]
    assert row["status"] == "unsupported"
    assert "x is float64" in row["reason"]


def test_float64_is_float64(good_run):
    accuracy = tables(good_run)["accuracy"].set_index("case")
    assert accuracy[accuracy.index.str.contains("f64")]["max_rel"].max() < 1e-12


def test_forward_passes_are_tried_on_hard_data_too(good_run):
    accuracy = tables(good_run)["accuracy"].set_index("case")["hard_max_rel"]
    assert accuracy[Case(TINY, "prefolded").slug] > 0
    assert accuracy[accuracy.index.str.contains("backward")].isna().all()


def test_the_ceiling_was_measured_in_every_process_for_the_sizes_of_the_cases(good_run):
    ceilings = tables(good_run)["ceilings"]
    assert set(ceilings["process"]) == {0, 1}
    assert {"negate", "scale", "triad", "launch 1"} <= set(ceilings["program"])
    assert ceilings["seconds"].gt(0).all()
    assert (ceilings["bytes"].isna() == ceilings["program"].str.startswith("launch")).all()


def test_programs_of_every_run_are_timed_against_themselves_in_every_process(good_run):
    found = tables(good_run)["aa"]
    assert set(found["device"]) == {"cpu"}
    sides = found.groupby(["program", "process", "clock", "cache"])["name"].unique()
    assert all(sorted(names) == ["a", "b"] for names in sides)
    assert {place[2:] for place in sides.index} == {(c, k) for c in ("wall", "pipelined") for k in ("cold", "warm")}
    assert {place[1] for place in sides.index} == {0, 1}
    (floor, *_) = trust(load_run(good_run))
    assert "noise floor" in floor[0]


def test_samples_say_how_much_of_the_cache_their_arrays_fill(good_run):
    timings, compiled = tables(good_run)["timings"], tables(good_run)["compiled"]
    cache_bytes = known_cache_bytes()
    timed = timings[timings["seconds"].notna() & (timings["stage"] == "call")]
    minimum = timed["case"].map(compiled[compiled["target"] == "cpu"].set_index("case")["minimum_bytes"])
    expected = minimum / cache_bytes if cache_bytes else minimum * float("nan")
    pd.testing.assert_series_equal(timed["cache_ratio"], expected.astype(float), check_names=False)
    assert timed["throttled"].isna().all()
    assert timed["source"].isna().all()


def test_the_run_says_how_it_came_about_and_what_it_cost(good_run):
    info = json.loads((good_run / "run.json").read_text())
    assert (info["status"], info["preset"], info["command"], info["targets"]) == (
        "complete",
        "smoke",
        "a test",
        ["cpu"],
    )
    assert info["cost"]["measure"]["cpu"]["cases"] == 5 + 3
    assert info["environment"]["packages"]["jax"]
    assert not (good_run / "parts").exists()


def test_every_module_named_is_stored(good_run):
    compiled = tables(good_run)["compiled"]
    stored = {path.name.removesuffix(".pb.zst") for path in (good_run / "hlo").glob("??/*")}
    assert set(compiled["module_sha256"].dropna()) == stored
    assert len(stored) == 3


def test_resuming_a_complete_run_changes_nothing(good_run):
    before = {path: path.read_bytes() for path in good_run.glob("*.parquet")}
    assert resume(good_run) == good_run
    assert {path: path.read_bytes() for path in good_run.glob("*.parquet")} == before


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cases": ()}, "cases: none"),
        ({"targets": ()}, "unknown target"),
        ({"targets": ("cpu", "tpu")}, "unknown target 'tpu'; allowed: cpu"),
        ({"executor": "slurm"}, "unknown executor 'slurm'; allowed: local, ray"),
        ({"imports": ("no_such_module",)}, "module 'no_such_module' cannot be imported"),
        ({"processes": 0}, "processes 0"),
    ],
)
def test_a_configuration_that_cannot_be_run_is_refused_before_anything_is_written(tmp_path, fields, message):
    with pytest.raises(UserError, match=message):
        study(config(tmp_path, **fields))
    assert not list(tmp_path.iterdir())


def test_an_unknown_preset_has_no_budget(tmp_path):
    with pytest.raises(UserError, match="unknown preset 'huge'"):
        StudyConfig.for_preset("huge", cases=(), targets=(), out=tmp_path)


def test_a_damaged_config_is_refused(tmp_path):
    store = Store.create(tmp_path, {"preset": "smoke", "config": {"cases": []}}, {})
    with pytest.raises(UserError, match=r"config in run\.json"):
        resume(store.path)


def test_a_configuration_survives_json(tmp_path):
    original = config(tmp_path)
    assert StudyConfig.from_json(json.loads(json.dumps(original.to_json())), original.out) == original
