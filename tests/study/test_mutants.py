"""The judge cannot be fooled: an operator with any one step left out ends as wrong in a study."""

import sys

import pandas as pd
import pytest

from normbench.kernels import registry
from normbench.study.schedule.study import StudyConfig, study

MUTANTS = "tests.study.mutants"
SAMPLED = (("forward", "bfloat16", None), ("backward", "float32", "layer_norm"))
"""Pass, dtype and operator, or all of them, of what the ordinary suite studies; `make torture` studies the rest too."""
OF_LANGUAGE_MODELS = {
    f"without_{step}" for step in ("rounding_of_hat", "offset_of_gamma", "units", "clipping", "sum", "dtype_of_sum")
}
"""Steps of RMS norm that only its forms and its sum with a residual have: studied forward."""


def sampled(case):
    if case.context == "residual" or case.variant in OF_LANGUAGE_MODELS:
        return case.operator == "rms_norm" and case.variant in OF_LANGUAGE_MODELS and case.pass_ == "forward"
    return any(
        (case.pass_, case.dtype) == (pass_, dtype) and operator in (None, case.operator)
        for pass_, dtype, operator in SAMPLED
    )


@pytest.fixture(scope="module")
def mutants():
    """The module, and afterwards the registry as it was."""
    before = {name: set(registry._VARIANTS[name]) for name in registry.operators()}
    yield __import__(MUTANTS, fromlist=["cases"])
    sys.modules.pop(MUTANTS, None)
    for operator, found in registry._VARIANTS.items():
        for name in set(found) - before[operator]:
            del found[name]


def survivors(cases, folder):
    """Of these cases the ones that a study does not find to be wrong, with what it found them to be."""
    config = StudyConfig.for_preset("smoke", cases=tuple(cases), targets=("cpu",), out=folder, imports=(MUTANTS,))
    run = study(config)
    timings = pd.read_parquet(run / "timings.parquet")
    found = dict(zip(timings["case"], zip(timings["status"], timings["reason"], strict=True), strict=True))
    return {case.slug: found.get(case.slug) for case in cases if (found.get(case.slug) or ("",))[0] != "wrong"}


def test_there_are_mutants_of_every_operator(mutants):
    assert {mutant.operator for mutant in mutants.mutants()} == set(registry.operators())
    assert len(mutants.mutants()) >= 60


def test_the_sampled_mutants_end_as_wrong(mutants, tmp_path):
    cases = [case for case in mutants.cases() if sampled(case)]
    assert len(cases) >= 60
    assert {case.variant for case in cases} >= OF_LANGUAGE_MODELS
    assert survivors(cases, tmp_path) == {}


@pytest.mark.torture
def test_every_mutant_ends_as_wrong(mutants, tmp_path):
    assert survivors(mutants.cases(), tmp_path) == {}
