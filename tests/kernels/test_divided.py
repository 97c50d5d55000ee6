"""Norms that are divided between devices: right on eight CPU devices, and with fewer collectives than the textbook."""

import importlib.util
import itertools
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from normbench import kernels
from normbench.cases import presets
from normbench.cases.case import Case, cases
from normbench.errors import UserError
from normbench.kernels.problem import Problem

ROOT = Path(__file__).resolve().parents[2]
INTERPRETERS = [
    sys.executable,
    *(pytest.param(str(path), marks=pytest.mark.torture) for path in sorted(ROOT.glob(".venv-0.12*/bin/python"))),
]
EXACT = ("merged", "sums")
"""Right to a few roundings of float32, on data that they can do with; the textbook formula keeps what its rounded mean
leaves: 6e-5 of a deviation of 1e-2."""
BATCH, ROWS, WHOLE = (
    Problem("batch_norm_training", (64, 14, 14, 64), "nhwc", "bfloat16", context="batch8"),
    Problem("layer_norm", (1, 1024, 4096), "nlc", "bfloat16", context="hidden8"),
    Problem("rms_norm", (1, 8192, 4096), "nlc", "bfloat16", context="sequence8"),
)
GROUPS = Problem("group_norm", (4, 16, 16, 64), "nhwc", "bfloat16", context="channels4", options=(("groups", 32),))


def test_every_variant_on_eight_devices_is_what_one_device_computes_in_float64():
    flags = "--xla_force_host_platform_device_count=8"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "XLA_FLAGS": flags}
    environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # most of it is compiling
    command = [sys.executable, "-m", "tests.kernels.divided"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)["distances"]
    assert len(found) == 20
    for name, distances in found.items():
        bound = 1e-6 if name.endswith(EXACT) or name.startswith("rms_norm") else 2e-2
        assert max(distances) <= bound, name


@pytest.fixture(scope="module", params=INTERPRETERS, ids=lambda path: Path(path).parents[1].name)
def compiled(request):
    if importlib.util.find_spec("jax_cuda13_plugin") is None:
        pytest.skip("needs the extra gpu-targets")
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    command = [request.param, "-m", "tests.kernels.divided_facts"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "name",
    ["batch8 forward", "batch8 forward_backward", "batch64 forward", "hidden8 forward", "hidden8 forward_backward"],
)
def test_merged_moments_take_half_the_collectives_and_no_more_bytes(compiled, name):
    """One, whatever the passes: those of the backward pass wait for nothing that the forward pass receives."""
    facts = compiled[name]
    for variant, textbook in itertools.product(EXACT, ("naive", "sharded")):
        assert len(facts[variant]["sent"]) == 1 <= len(facts[textbook]["sent"]) / 2
        assert facts[variant]["bytes"] <= facts[textbook]["bytes"]


def test_what_is_sent_is_what_the_formulas_say(compiled):
    channels = 64 * 4
    for devices in (8, 64):
        facts = compiled[f"batch{devices} forward"]
        ring = 2 * channels * (devices - 1) // devices
        assert facts["naive"]["sent"] == facts["sharded"]["sent"] == [["all-reduce", devices, ring]] * 2
        assert facts["sums"]["sent"] == [["all-reduce", devices, 2 * ring]]
        assert facts["merged"]["sent"] == [["all-gather", devices, 3 * channels * (devices - 1)]]
    rows = 1024 * 4
    facts = compiled["hidden8 forward"]
    assert facts["naive"]["sent"] == [["all-reduce", 8, 2 * rows * 7 // 8]] * 2
    assert facts["merged"]["sent"] == [["all-gather", 8, 3 * rows * 7]]


def test_statistics_that_lie_on_one_device_are_not_sent(compiled):
    gathered = [["all-gather", 8, 8192 * 4096 * 2 * 7 // 8]]
    assert compiled["sequence8 forward"].keys() == {"naive", "sharded", "pallas_triton"}
    for fact in compiled["sequence8 forward"].values():
        assert fact["sent"] == gathered
    for fact in compiled["channels4 forward"].values():
        assert fact["sent"] == []
    assert compiled["channels4 forward"]["pallas_triton"]["kinds"] == ["pallas"]


@pytest.mark.parametrize(
    ("problem", "variant", "target", "reason"),
    [
        (BATCH, "pallas_triton", "h200", "a kernel of one device: the statistics of batch8 are spread over 8"),
        (BATCH, "naive", "cpu", "its 8 devices are compiled for where they need not be: take a target such as h200"),
        (WHOLE, "pallas_triton", "gpu", "its 8 devices are compiled for"),
        (replace(ROWS, context="sequence8"), "merged", "h200", "nothing of its statistics is spread over devices"),
        (replace(BATCH, context="alone"), "merged", "h200", "it is written for many devices: take it in a context of"),
    ],
)
def test_what_a_variant_cannot_do_divided_is_one_line(problem, variant, target, reason):
    line = kernels.get(problem.operator, variant).supports(problem, target)
    assert line.startswith(reason)
    assert "\n" not in line


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (replace(BATCH, shape=(63, 14, 14, 64)), "divides axis 0 of x between 8 devices"),
        (replace(ROWS, shape=(1, 1024, 4097)), "has 4097 elements along it, which is no multiple"),
        (replace(GROUPS, options=(("groups", 2),)), "gives each of 4 devices whole groups; groups is 2"),
        (replace(ROWS, options=(("ndim", 2),)), "allowed: option ndim=1"),
        (replace(ROWS, pass_="backward"), "is studied forward and forward_backward"),
        (replace(ROWS, context="batch8"), "unknown context 'batch8'"),
        (replace(WHOLE, shape=(64,), layout="c"), "divides the rows of x; shape (64,) has none"),
    ],
)
def test_a_problem_that_its_context_does_not_divide_is_one_line(problem, words):
    with pytest.raises(UserError, match=re.escape(words)) as error:
        kernels.operator(problem.operator).validate(problem)
    assert "\n" not in str(error.value)


def test_the_preset_holds_every_context_both_ways_and_its_slugs_can_be_read_back():
    for problem, provenance in presets.problems("sharding").items():
        kernels.operator(problem.operator).validate(problem)
        assert provenance
    found = cases("sharding")
    assert {case.context for case in found} == {"batch8", "batch64", "hidden8", "sequence8", "channels4"}
    assert {case.pass_ for case in found} == {"forward", "forward_backward"}
    assert all(Case.from_slug(case.slug) == case for case in found)
    assert {"naive", "sharded", "sums", "merged"} <= {case.variant for case in found}
