"""CONTRIBUTING's recipes, followed literally in a copy of the checkout: each ends with its tests green.

The long ones, with the goldens of a whole operator and all tests of what was touched, are marked `torture`.
"""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
VARIANT = '''"""The mean square of twice x, a fourth of it."""

import jax
import jax.numpy as jnp

from normbench.kernels.common.checks import compute_dtype
from normbench.kernels.common.statistics import inverse_root
from normbench.kernels.rms_norm.arguments import checked


def doubled(
    x: jax.Array, gamma: jax.Array | None, epsilon: float | None = 1e-5, *, ndim: int = 1, activation: str = "none"
) -> jax.Array:
    """As `naive`."""
    from normbench.kernels.common.activations import activate

    a = checked(x, gamma, epsilon, ndim, activation)
    wide = a.x.astype(compute_dtype(a.x, a.gamma))
    rrms = inverse_root(jnp.square(2 * wide).mean(a.axes, keepdims=True) / 4, a.epsilon)
    return activate(wide * rrms * a.gamma.astype(wide.dtype), activation).astype(a.x.dtype)
'''
OPERATOR = {
    "reference.py": '''"""L2 norm in float64 NumPy: the oracle of every variant."""

from typing import Any

import numpy as np


def reference(x: Any, epsilon: float = 1e-5) -> np.ndarray:
    """y = x / sqrt(sum of x² over the last axis + epsilon), in float64."""
    wide = np.asarray(x).astype(np.float64)
    return wide / np.sqrt(np.square(wide).sum(-1, keepdims=True) + epsilon)
''',
    "naive.py": '''"""The formula in float32, cast back to x's dtype."""

import jax
import jax.numpy as jnp

from normbench.kernels.common.checks import compute_dtype, floating


def naive(x: jax.Array, epsilon: float = 1e-5) -> jax.Array:
    """y = x / sqrt(sum of x² over the last axis + epsilon), in the shape and dtype of x."""
    x = floating("x", x)
    wide = x.astype(compute_dtype(x))
    return (wide * jax.lax.rsqrt(jnp.square(wide).sum(-1, keepdims=True) + epsilon)).astype(x.dtype)
''',
    "__init__.py": '''"""L2 norm: y = x / sqrt(sum of x² + epsilon) over the last axis."""

from typing import Any

from normbench.kernels.common.checks import check_problem
from normbench.kernels.l2_norm.naive import naive
from normbench.kernels.l2_norm.reference import reference
from normbench.kernels.problem import Problem
from normbench.kernels.registry import Argument, Operator, Variant, register_operator, register_variant

_NAME = "l2_norm"


def _keywords(problem: Problem) -> dict[str, Any]:
    return {"epsilon": problem.epsilon}


def _validate(problem: Problem) -> None:
    check_problem(problem, layouts=("nc", "nlc"), options=(), contexts=("alone",))


register_operator(
    Operator(
        name=_NAME,
        arguments=lambda problem: (Argument("x", problem.shape, problem.dtype, "activation"),),
        keywords=_keywords,
        reference=reference,
        validate=_validate,
        contexts=("alone",),
        reduction=lambda problem: problem.shape[-1],
    )
)
register_variant(Variant(_NAME, "naive", naive, "the formula in float32, cast back to x's dtype"))
''',
}
OPERATOR_CASES = '''"""Problems of l2 norm: the queries of Qwen3-0.6B."""

from normbench.cases.presets.family import Family, Layer

_QUERIES = Layer((8192, 128), "nc", "Qwen3-0.6B queries of 512 tokens")
_KEYS = Layer((4096, 128), "nc", "Qwen3-0.6B keys of 512 tokens")
_HEADS = Layer((512, 16, 128), "nlc", "Qwen3-0.6B queries of 512 tokens, by head")

L2_NORM = Family(
    operator="l2_norm",
    smoke_layers=((Layer((512, 128), "nc", "Qwen3-0.6B queries of 32 tokens"), "bfloat16"),),
    quick_layers=((_QUERIES, "bfloat16"), (_KEYS, "float32"), (_HEADS, "float64")),
    layers=(_QUERIES, _KEYS, _HEADS),
    trained=(_QUERIES,),
    odd=(),
    contexts=("alone",),
)
'''
PRESET = '''"""Do rows of the length of a warp cost more?"""

from collections.abc import Iterator

from normbench import kernels
from normbench.kernels.problem import Problem


def problems() -> Iterator[tuple[Problem, str]]:
    yield Problem("rms_norm", (4096, 32), layout="nc"), "a warp"


def variants(operator: str) -> tuple[str, ...]:
    return kernels.variants(operator)
'''

_OTHER_OPERATORS = ("-k", "not programs_are_as_the_goldens_say")
"""Leaves out the goldens of operators that a recipe does not touch; those of its own are compiled by `_Clone.renew`."""


class _Clone:
    """A copy of what is committed or about to be, in which files are changed and commands are run."""

    def __init__(self, folder: Path):
        self.folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True
        )
        if listed.returncode:
            pytest.skip("no checkout of git")
        for name in filter(None, listed.stdout.decode().split("\0")):
            source, target = ROOT / name, folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_symlink():
                target.symlink_to(os.readlink(source))
            elif source.is_file():
                shutil.copy2(source, target)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(text, encoding="utf-8")

    def edit(self, name: str, before: str, after: str) -> None:
        text = (self.folder / name).read_text(encoding="utf-8")
        assert text.count(before) == 1, f"{name} has {before!r} {text.count(before)} times"
        self.write(name, text.replace(before, after))

    def run(self, *words: str) -> str:
        """A command of this Python in the copy, which has to end well."""
        variables = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(self.folder)}
        done = subprocess.run([sys.executable, *words], cwd=self.folder, env=variables, capture_output=True, text=True)
        assert done.returncode == 0, f"{words}\n{done.stdout[-4000:]}\n{done.stderr[-2000:]}"
        return done.stdout

    def test(self, *words: str) -> str:
        return self.run("-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", *words)

    def renew(self, operator: str) -> None:
        """As `make goldens` with this JAX; then a sample of them is found as they say when it is compiled anew."""
        words = ("-m", "normbench.goldens.renew", "--operator", operator)
        self.run(*words)
        self.run("-m", "analysis.pages.history")
        assert self.run(*words, "--check", "--sample", "4").strip() == "as the goldens say"

    def command(self, *words: str) -> str:
        return self.run("-m", "normbench.cli.main", *words)


@pytest.fixture
def clone(tmp_path):
    return _Clone(tmp_path / "clone")


def _add_variant(clone):
    clone.write("normbench/kernels/rms_norm/doubled.py", VARIANT)
    clone.edit(
        "normbench/kernels/rms_norm/__init__.py",
        "from normbench.kernels.rms_norm.flax import flax\n",
        "from normbench.kernels.rms_norm.doubled import doubled\nfrom normbench.kernels.rms_norm.flax import flax\n",
    )
    clone.edit(
        "normbench/kernels/rms_norm/__init__.py",
        '    Variant(_NAME, "flax",',
        '    Variant(_NAME, "doubled", doubled, "the mean square of twice x"),\n    Variant(_NAME, "flax",',
    )


def test_a_variant_that_is_added_is_checked_by_the_suite(clone):
    _add_variant(clone)
    told = clone.test("tests/kernels/test_rms_norm.py", "tests/kernels/test_registry.py", "-k", "doubled or registry")
    assert int(re.search(r"(\d+) passed", told)[1]) > 20
    assert "doubled" in clone.command("list", "--preset", "smoke", "--operator", "rms_norm", "--target", "cpu")


@pytest.mark.torture
def test_a_variant_ends_green(clone):
    pytest.importorskip("jax_cuda13_plugin", reason="goldens need the extra gpu-targets")
    _add_variant(clone)
    clone.renew("rms_norm")
    paths = ("tests/kernels/test_rms_norm.py", "tests/kernels/test_registry.py", "tests/kernels/test_traffic.py")
    clone.test(*paths, "tests/kernels/test_transforms.py", "tests/benchmarks", "tests/cases")
    clone.test("tests/goldens", *_OTHER_OPERATORS)
    clone.test("tests/test_house.py", "tests/test_documents.py", "tests/analysis/test_history.py")


def _add_operator(clone):
    for name, text in OPERATOR.items():
        clone.write(f"normbench/kernels/l2_norm/{name}", text)
    line = "from normbench.kernels import layer_norm as layer_norm\n"
    clone.edit("normbench/kernels/families.py", line, f"from normbench.kernels import l2_norm as l2_norm\n{line}")
    clone.write("normbench/cases/presets/l2_norm.py", OPERATOR_CASES)
    presets = "normbench/cases/presets/__init__.py"
    line = "from normbench.cases.presets.local_response_norm import LOCAL_RESPONSE_NORM\n"
    clone.edit(presets, line, f"from normbench.cases.presets.l2_norm import L2_NORM\n{line}")
    clone.edit(presets, "    LOCAL_RESPONSE_NORM,\n)", "    LOCAL_RESPONSE_NORM,\n    L2_NORM,\n)")


@pytest.mark.torture
def test_an_operator_ends_green(clone):
    pytest.importorskip("jax_cuda13_plugin", reason="goldens need the extra gpu-targets")
    _add_operator(clone)
    clone.renew("l2_norm")
    out = clone.command("study", "--preset", "smoke", "--operator", "l2_norm", "--target", "cpu")
    assert "wrong" not in out
    paths = (
        "tests/kernels/test_registry.py",
        "tests/benchmarks",
        "tests/cases",
        "tests/test_house.py",
    )
    clone.test(*paths, "tests/cli/test_main.py", "tests/analysis/test_history.py")
    clone.test("tests/goldens", *_OTHER_OPERATORS)


def _add_target(clone):
    text = (clone.folder / "normbench/fusion/targets/h100.txtpb").read_text(encoding="utf-8")
    text = re.sub(r"core_count: \d+", "core_count: 100", text).replace(
        "NVIDIA H100 80GB HBM3", "made up: a smaller H100"
    )
    clone.write("normbench/fusion/targets/h100_small.txtpb", text)
    for name in ("TARGETS", "DEVICELESS_TARGETS"):
        text = (clone.folder / "normbench/schema.py").read_text(encoding="utf-8")
        line = re.search(rf"^{name} = \(.*\)$", text, re.MULTILINE)[0]
        clone.edit("normbench/schema.py", line, f'{line[:-1]}, "h100_small")')
    text = (clone.folder / "normbench/kernels/common/targets.py").read_text(encoding="utf-8")
    for name in ("TRITON_TARGETS", "MOSAIC_TARGETS"):
        line = re.search(rf"^{name} = \(.*\)$", text, re.MULTILINE)[0]
        clone.edit("normbench/kernels/common/targets.py", line, f'{line[:-1]}, "h100_small")')


def test_a_target_that_is_added_is_compiled_for(clone):
    if find_spec("jax_cuda13_plugin") is None:
        pytest.skip("needs the extra gpu-targets")
    _add_target(clone)
    shape = ("--shape", "8x197x768", "--dtype", "bfloat16", "--target", "h100_small")
    assert "on h100_small" in clone.command("explain", "layer_norm", "pallas_triton", *shape)


@pytest.mark.torture
def test_a_target_ends_green(clone):
    _add_target(clone)
    clone.test("tests/cli/test_main.py", "tests/cli/test_target_files.py", "tests/test_house.py", "tests/predict")
    clone.test("tests/fusion/test_parts.py", "tests/fusion/test_facts.py", "tests/kernels/test_registry.py")


def _add_preset(clone):
    clone.write("normbench/cases/presets/warps.py", PRESET)
    presets = "normbench/cases/presets/__init__.py"
    line = '    "sharding": sharding,\n'
    clone.edit(presets, line, f'{line}    "warps": warps,\n')
    clone.edit(presets, "repeatability, sharding\n", "repeatability, sharding, warps\n")
    line = '    "repeatability": Budget('
    clone.edit("normbench/study/schedule/study.py", line, f'    "warps": Budget(1, 10, 200, 0.02, 0.5),\n{line}')


def test_a_preset_that_is_added_is_listed(clone):
    _add_preset(clone)
    listed = clone.command("list", "--preset", "warps", "--target", "cpu")
    assert "rms_norm" in listed
    assert "4096x32" in listed


@pytest.mark.torture
def test_a_preset_ends_green(clone):
    _add_preset(clone)
    assert "Which variant to use" in clone.command("study", "--preset", "warps", "--target", "cpu")
    clone.test("tests/cases", "tests/benchmarks", "tests/cli/test_main.py", "tests/test_house.py")


@pytest.mark.torture
def test_a_newcomer_studies_and_reads(clone):
    """A fresh copy, `make study`, the last 40 lines: the recommended variants are those of the report beside them."""
    variables = {**os.environ, "JAX_PLATFORMS": "cpu"}
    variables.pop("PYTHONPATH", None)
    words = ["make", "study", "PRESET=smoke", f"PYTHON={sys.executable}"]
    done = subprocess.run(words, cwd=clone.folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()[-40:]
    assert any(line.startswith("Which variant to use") for line in lines)
    report = clone.folder / lines[-1].removeprefix("Report: ")
    rows = re.findall(r'<th scope="row">([^<]+)</th><td><strong class="use">([^<]+)</strong>', report.read_text())
    assert len(rows) >= 3
    for name, variant in rows[:3]:
        line = next(line for line in lines if line.startswith(f"{name} "))
        assert line.removeprefix(name).split()[0] == variant
