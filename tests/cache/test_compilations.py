"""What is compiled once is read the next time, row for row; anything that may change a row makes it compiled again."""

from dataclasses import replace
from itertools import product

import pandas as pd
import pytest

from normbench import kernels
from normbench.cache import toolchain as toolchain_module
from normbench.cache.compilations import Compilations, Kept
from normbench.cache.store import Cache
from normbench.cases.case import Case
from normbench.fusion.targets import deviceless_target
from normbench.kernels import Problem
from normbench.study.machine.environment import lowering_context
from normbench.study.schedule.study import StudyConfig, study
from normbench.study.schedule.units import Unit
from normbench.study.worker import compile as worker

pytest.importorskip("jax_cuda13_plugin")
PROBLEM = Problem("batch_norm", (2, 4, 3, 5), context="relu")
NAMES = ("naive", "folded", "naive_promoting", "pallas_triton")
TOOK = ["lower_s", "compile_s", "read_s", "predict_s", "cached"]


@pytest.fixture
def compiled(monkeypatch):
    """The programs that are compiled, one after the other."""
    found, compile_now = [], worker._compile
    monkeypatch.setattr(worker, "_compile", lambda *arguments: found.append(arguments) or compile_now(*arguments))
    return found


def rows(folder, run, names=NAMES, context="here", target="h200", problem=PROBLEM, lowerings=None):
    """The rows of both tables of the variants of a problem."""
    (run / "hlo").mkdir(parents=True, exist_ok=True)
    unit = Unit("compile", target, 0, "p", tuple(Case(problem, name).slug for name in names), False)
    found = []
    worker.compile_unit(
        unit, run, lambda slug, tables, done: found.append(tables), lambda *_: None, Compilations(folder, context),
        lowerings or worker.Lowerings(shared=True),
    )  # fmt: skip
    return [
        pd.DataFrame([row for tables in found for row in tables.get(name, [])]).astype(object)
        for name in ("compiled", "launches")
    ]


def test_a_second_time_nothing_is_compiled_nor_lowered(tmp_path, compiled, monkeypatch):
    first = rows(tmp_path / "cache", tmp_path / "a")
    made = len(compiled)
    assert 0 < made <= len(NAMES)
    monkeypatch.setattr(worker, "lower_to_bytecode", None)
    second = rows(tmp_path / "cache", tmp_path / "b")
    assert len(compiled) == made
    assert second[0]["cached"].all()
    assert not set(second[0]) & set(TOOK[:-1]), "what it took was taken elsewhere"
    pd.testing.assert_frame_equal(second[0].drop(columns="cached"), first[0].drop(columns=TOOK, errors="ignore"))
    pd.testing.assert_frame_equal(second[1], first[1])
    stored = [{path.name: path.read_bytes() for path in (tmp_path / run / "hlo").rglob("*.zst")} for run in "ab"]
    assert stored[0] == stored[1] != {}


@pytest.mark.parametrize("problem", [PROBLEM, replace(PROBLEM, pass_="backward", dtype="bfloat16")])
def test_a_program_is_lowered_once_for_all_devices_or_once_for_an_architecture(tmp_path, monkeypatch, problem):
    """And is the same as if it had been lowered for each."""
    lower_now, lowered, names = worker.lower_to_bytecode, [], kernels.variants("batch_norm")

    def count(function, inputs, target):
        lowered.append(lower_now(function, inputs, target)[0])
        return lowered[-1], 0.0

    monkeypatch.setattr(worker, "lower_to_bytecode", count)
    digests = {}
    for shared in (True, False):
        lowered.clear()
        lowerings = worker.Lowerings(shared)
        for name, target in product(names, ("h200", "a100", "h100", "b200")):
            case = Case(problem, name)
            if kernels.get("batch_norm", name).supports(problem, target) is None:
                program = kernels.program(problem, name)
                digests[name, target, shared] = lowerings.of(case, program, target)[1]
        every = {(name, target) for name, target, _ in digests}
        once = {(name, name.startswith("pallas") and deviceless_target(target).capability) for name, target in every}
        assert len(lowered) == len(once if shared else every)
    for name, target, _ in digests:
        assert digests[name, target, True] == digests[name, target, False]


def test_a_kernel_is_lowered_for_each_tpu_and_each_compute_capability(monkeypatch):
    lowered = []
    monkeypatch.setattr(worker, "lower_to_bytecode", lambda *call: (lowered.append(call[2]) or b"tpu_custom_call", 0.0))
    monkeypatch.setattr(worker.jax_compat, "module_text", lambda _: "")
    lowerings, program = worker.Lowerings(shared=True), kernels.program(PROBLEM, "naive")
    for target in ("v5e", "v6e", "tpu7x", "v6e", "h200", "h100", "b200", "a100"):
        lowerings.of(Case(PROBLEM, "naive"), program, target)
    assert lowered == ["v5e", "v6e", "tpu7x", "h200", "b200", "a100"]


def test_a_variant_that_is_the_same_program_is_not_compiled_again(tmp_path, compiled, monkeypatch):
    """Where the source is named by the program, it is not that of another variant."""
    found = rows(tmp_path / "cache", tmp_path / "a", names=("naive", "naive_promoting"))
    assert len(compiled) == 1, "in float32 nothing is promoted"
    assert found[0]["cached"].tolist() == [False, True]
    assert found[0]["hlo_sha256"].nunique() == 1
    assert found[1]["source"].notna().tolist() == [True, False]


def test_without_a_cache_everything_is_compiled(tmp_path, compiled):
    for run in "ab":
        assert not rows(None, tmp_path / run, names=("naive", "naive_promoting"))[0]["cached"].any()
    assert len(compiled) == 4


def test_variants_of_the_users_own_are_lowered_to_find_their_program(tmp_path, compiled):
    rows(tmp_path / "cache", tmp_path / "a", names=("naive",), context=None)
    second = rows(tmp_path / "cache", tmp_path / "b", names=("naive",), context=None)
    assert len(compiled) == 1
    assert second[0]["lower_s"].gt(0).all()
    assert Cache(tmp_path / "cache").stats().entries == {"program": 1}


@pytest.mark.parametrize("what", ["target", "flag", "version", "reader", "shape"])
def test_what_may_change_a_row_makes_it_compiled_again(tmp_path, compiled, monkeypatch, what):
    rows(tmp_path / "cache", tmp_path / "a", names=("naive",))
    toolchain_module.toolchain.cache_clear()
    if what == "flag":
        monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false")
    elif what == "version":
        monkeypatch.setattr(toolchain_module, "compiler_versions", lambda platform: {"jax": "99"})
    elif what == "reader":
        monkeypatch.setattr(toolchain_module, "code_digest", lambda code=(): "other code")
    fields = {"target": {"target": "a100"}, "shape": {"problem": Problem("batch_norm", (2, 4, 3, 6), context="relu")}}
    rows(tmp_path / "cache", tmp_path / "b", names=("naive",), **fields.get(what, {}))
    toolchain_module.toolchain.cache_clear()
    assert len(compiled) == 2


def test_versions_and_variables_decide_which_program_a_case_is(monkeypatch):
    before = lowering_context()
    monkeypatch.setenv("JAX_DEFAULT_MATMUL_PRECISION", "highest")
    assert lowering_context() != before


@pytest.mark.parametrize(
    "written",
    [b"", b"{}", b"[]\n", b'{"origin": "", "parameters": "x", "row": {}, "launches": []}\n',
     b'{"origin": "", "parameters": 1, "row": {"status ": "ok"}, "launches": []}\n',
     b'{"origin": "", "parameters": 1, "row": {"bytes": [1]}, "launches": []}\n',
     b'{"origin": "", "parameters": 1, "row": {}, "launches": {"a": 1}}\n'],
)  # fmt: skip
def test_an_entry_of_another_hand_is_not_taken(tmp_path, written):
    case, compilations = Case(PROBLEM, "naive"), Compilations(tmp_path, "here")
    key = compilations.key("h200", "program")
    Cache(tmp_path).add(key, "program", written)
    assert compilations.find(key, case) is None
    with pytest.raises((ValueError, KeyError, TypeError, AttributeError)):
        Kept.from_bytes(written, "")


def test_a_study_from_the_cache_equals_one_without_it(tmp_path):
    cases = tuple(Case(PROBLEM, name) for name in ("naive", "folded"))
    found = []
    for run, cache in (("a", None), ("b", "cache"), ("c", "cache")):
        folder = study(
            StudyConfig.for_preset(
                "smoke", cases=cases, targets=("h200",), out=tmp_path / run, workers=1,
                cache=cache and str(tmp_path / cache),
            )
        )  # fmt: skip
        found.append([pd.read_parquet(folder / f"{name}.parquet") for name in ("compiled", "launches")])
    for compiled_rows, launches in found[1:]:
        pd.testing.assert_frame_equal(launches, found[0][1])
        pd.testing.assert_frame_equal(compiled_rows.drop(columns=TOOK), found[0][0].drop(columns=TOOK))
    assert [one[0]["cached"].unique().tolist() for one in found] == [[False], [False], [True]]
