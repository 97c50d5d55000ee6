"""The arrows of the house: who may import whom, and who may reach into JAX's unstable parts."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {
    "normbench": {"kernels", "benchmarks", "analysis"},
    "kernels": {"benchmarks", "analysis"},
    "analysis": {"kernels", "benchmarks"},
    "benchmarks": set(),
}
UNSTABLE = (
    "jax._src",
    "jaxlib",
    "jax.experimental.topologies",
    "jax.experimental.pallas",
    "jax.experimental.mosaic",
    "jax.extend",
)
COMPATIBILITY = set((ROOT / "normbench").glob("jax_compat*.py"))
KERNEL_LANGUAGE = {"jax.experimental.pallas"}
"""The public names of Pallas (`pallas_call`, `program_id`, ...): a kernel is written in them."""


def sources():
    for package in FORBIDDEN:
        for path in sorted((ROOT / package).rglob("*.py")):
            if "notebooks" not in path.parts:
                yield package, path


def imported(path):
    """Full names that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(("package", "path"), [pytest.param(*s, id=str(s[1].relative_to(ROOT))) for s in sources()])
def test_imports_follow_the_arrows(package, path):
    wrong = {name for name in imported(path) if name.split(".")[0] in FORBIDDEN[package]}
    assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


@pytest.mark.parametrize("path", [pytest.param(path, id=str(path.relative_to(ROOT))) for _, path in sources()])
def test_unstable_parts_of_jax_are_reached_through_one_module(path):
    if path in COMPATIBILITY:
        return
    names = {name for name in imported(path) if name.startswith(UNSTABLE)}
    wrong = {name for name in names if name not in KERNEL_LANGUAGE}
    assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}: reach it through normbench.jax_compat"


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_the_package_in_use_is_ours(package):
    """Hugging Face publishes a package that is also imported as `kernels`."""
    assert Path(importlib.import_module(package).__file__).is_relative_to(ROOT)


def test_every_module_is_short():
    long = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for _, p in sources()}
    assert not {path: lines for path, lines in long.items() if lines > 330}


def test_reading_results_needs_no_jax():
    code = "import analysis.report, sys; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_the_command_answers_for_help_without_jax():
    code = "import benchmarks.cli, sys; sys.exit(any(name in sys.modules for name in ('jax', 'pandas', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
