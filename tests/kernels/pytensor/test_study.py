"""PyTensor as a second compiler in the study: right, refused with reasons, timed by the same clocks."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from normbench import kernels
from normbench.cases.case import Case, cases
from normbench.errors import UserError
from normbench.kernels import Problem
from normbench.kernels.peers import pytensor_variants
from normbench.study.check.accuracy import Oracle
from normbench.study.worker.compiled_case import check, compile_case, inputs_of

CONV = (("bias", True), ("features", 6), ("padding", ((1, 1), (0, 1))), ("stride", (2, 1)))
PROBLEMS = (
    Problem("batch_norm", (4, 8), "nc"),
    Problem("batch_norm", (5,), "c", context="relu"),
    Problem("batch_norm", (2, 3, 5, 4), dtype="float16", context="silu"),
    Problem("batch_norm", (2, 3, 4, 4), dtype="float64", param_dtype="float64", context="gelu"),
    Problem("conv_bn", (2, 4, 7, 6), context="silu", epsilon=1e-3, options=CONV),
    Problem("conv_bn", (1, 4, 5, 5), param_dtype="float64", options=(("groups", 2), ("kernel", 1))),
    Problem("layer_norm", (2, 3, 8), "nlc", context="gelu"),
    Problem("layer_norm", (2, 3, 8), "nlc", options=(("ndim", 2),)),
    Problem("rms_norm", (4, 8), "nc", epsilon=1e-6),
    Problem("group_norm", (2, 6, 3, 4), context="silu", options=(("groups", 3),)),
    Problem("instance_norm", (2, 3, 5, 4)),
)
COMPILED_ELSEWHERE = {"numba": (PROBLEMS[0], PROBLEMS[8]), "c": (PROBLEMS[0], PROBLEMS[4], PROBLEMS[6])}
"""Numba and g++ take seconds for each."""
PAIRS = [
    (problem, name)
    for problem in PROBLEMS
    for name in kernels.variants(problem.operator, ("pytensor",))
    if "jax" in name or problem in COMPILED_ELSEWHERE[name.split("_")[1]]
]


@pytest.mark.parametrize(("problem", "variant"), PAIRS)
def test_each_variant_is_right(problem, variant, tmp_path):
    if reason := kernels.get(problem.operator, variant).supports(problem, "cpu"):
        pytest.skip(reason)
    (tmp_path / "hlo").mkdir()
    compiled, tables = compile_case(Case(problem, variant), "cpu", tmp_path)
    oracle = Oracle(problem, seed=0)
    inputs = inputs_of(compiled.program, oracle, compiled.hosted)
    on_host = "jax" not in variant
    assert all(isinstance(array, np.ndarray) == on_host for array in inputs)
    found = check(compiled, inputs, oracle, "cpu")
    assert found.ok, found.reason
    (row,) = tables["compiled"]
    assert row["status"] == "ok"
    assert row["minimum_bytes"] == compiled.minimum_bytes > 0
    assert (row.get("launches") is None) == on_host


def test_variants_take_the_operators_own_signature():
    problem = PROBLEMS[0]
    oracle = Oracle(problem, seed=0)
    keywords = kernels.operator("batch_norm").keywords(problem)
    results = [
        np.asarray(kernels.get("batch_norm", name)(*oracle.arrays, **keywords))
        for name in kernels.variants("batch_norm", ("pytensor",))
    ]
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], rtol=1e-5, atol=1e-6)


def test_the_jax_variant_can_be_traced_again_and_differentiated():
    x, *parameters = Oracle(PROBLEMS[0], seed=0).arrays
    keywords = kernels.operator("batch_norm").keywords(PROBLEMS[0])

    def total(name, x):
        return jax.numpy.sum(kernels.get("batch_norm", name)(x, *parameters, **keywords) ** 2)

    for rows in (4, 3, 4):
        ours, theirs = (jax.jit(jax.grad(total, 1), static_argnums=0)(n, x[:rows]) for n in ("pytensor_jax", "naive"))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.parametrize(
    ("problem", "variant", "target", "reason"),
    [
        (Problem("batch_norm", (4, 8), "nc", "bfloat16"), "pytensor_jax", "cpu", "no bfloat16"),
        (Problem("batch_norm", (4, 8), "nc", "float16"), "pytensor_numba", "cpu", "no float16"),
        (Problem("batch_norm", (4, 8), "nc"), "pytensor_c", "h200", "computes on the CPU"),
        (Problem("batch_norm", (4, 8), "nc"), "pytensor_jax", "h200", None),
        (Problem("batch_norm", (4, 8), "nc", pass_="backward"), "pytensor_jax", "cpu", "forward pass"),
        (Problem("batch_norm", (4, 8), "nc", context="residual"), "pytensor_jax", "cpu", "stand alone"),
        (Problem("batch_norm", (4, 5, 8), "nlc"), "pytensor_jax", "cpu", "channels on axis 1"),
        (Problem("layer_norm", (4, 5, 8), "nlc"), "pytensor_jax", "cpu", None),
        (Problem("conv_bn", (4, 5, 8), "ncl"), "pytensor_c", "cpu", "2-D"),
        (Problem("conv_bn", (1, 4, 8, 8), options=(("transposed", True),)), "pytensor_jax", "cpu", "not transposed"),
    ],
)
def test_reasons(problem, variant, target, reason):
    found = kernels.get(problem.operator, variant).supports(problem, target)
    assert found is None if reason is None else reason in found


def test_the_reason_without_pytensor(monkeypatch):
    monkeypatch.setattr(pytensor_variants, "find_spec", lambda name: None)
    assert "pip install" in pytensor_variants.unsupported("jax", PROBLEMS[0], "cpu")


def test_other_presets_have_them_only_by_name():
    assert not [case for case in cases("smoke") if case.variant.startswith("pytensor")]
    assert {case.variant for case in cases("smoke", ["batch_norm"], ["naive", "pytensor_jax"])} == {
        "naive",
        "pytensor_jax",
    }
    with pytest.raises(UserError, match=r"allowed: .*pytensor_numba"):
        cases("smoke", ["batch_norm"], ["pytensor_torch"])
    variants = {case.variant for case in cases("pytensor", ["conv_bn"])}
    assert variants == {"unfused", "prefolded", *kernels.variants("conv_bn", ("pytensor",))}


def test_naming_the_variants_imports_neither_pytensor_nor_its_backends():
    code = (
        "import sys; from normbench import kernels; assert kernels.variants('conv_bn', ('pytensor',)); "
        "kernels.get('conv_bn', 'pytensor_c').supports(kernels.Problem('conv_bn', (1, 4, 8, 8)), 'cpu'); "
        "sys.exit('pytensor' in sys.modules or 'numba' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_study(tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow, which the study needs, is not installed")
    from analysis.pages.pytensor.page import study_rows
    from normbench.report import load_run
    from normbench.study.schedule.study import StudyConfig, study

    names = ("naive", "pytensor_jax", "pytensor_numba", "pytensor_c_prefolded")
    chosen = tuple(Case(PROBLEMS[0], name) for name in names)
    config = StudyConfig(chosen, ("cpu",), tmp_path, processes=1, maximum_samples=3, time_limit_s=0.01)
    run = load_run(study(config))
    assert set(run.tables["accuracy"]["status"]) == {"ok"}
    timings = run.tables["timings"]
    assert set(timings["status"]) <= {"ok", "impossible"}
    combinations = timings[timings["stage"] == "call"].groupby(["case", "clock", "cache"]).size()
    assert len(combinations) == len(chosen) * 4
    rows = study_rows(run)
    assert [row["variant"] for row in rows] == list(names)
    assert all(row["warm_us"] and row["cold_us"] and row["max_rel"] for row in rows)


@pytest.mark.parametrize("problem", [PROBLEMS[0], PROBLEMS[6], PROBLEMS[9]], ids=lambda problem: problem.operator)
def test_nothing_is_promoted_or_copied_for_the_h200(problem, tmp_path):
    from normbench.fusion import compile_for
    from normbench.fusion.targets import require_gpu_targets

    try:
        require_gpu_targets()
    except UserError as error:
        pytest.skip(str(error))
    program = kernels.program(problem, "pytensor_jax")
    with jax.enable_x64(False):
        compilation = compile_for(program.function, program.inputs, "h200")
    assert "f64[" not in compilation.hlo_text
    assert not [launch for launch in compilation.launch_rows() if launch["kind"] in ("copy", "transpose")]
    baseline = kernels.program(problem, kernels.variants(problem.operator)[0])
    assert (
        compilation.compiled_row()["bytes"]
        <= 1.01 * compile_for(baseline.function, baseline.inputs, "h200").compiled_row()["bytes"]
    )
