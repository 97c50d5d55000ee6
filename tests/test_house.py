"""The arrows of the house: who may import whom, and who may reach into JAX's unstable parts."""

import ast
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "normbench"
LEAVES = ("errors", "schema", "declared", "run_folder", "start", "own_targets", "display")
ROOMS = (  # from the bottom up: each imports only rooms below it, and the leaves
    "jax_compat",
    "fusion",
    "predict",
    "kernels",
    "cases",
    "norms",
    "explanation",
    "report",
    "goldens",
    "cache",
    "study",
    "testing",
    "cli",
)
NOT_BY_KERNELS = {"fusion", "predict"}
"""Choosing a kernel stays instant and pure: what it knows of time are rules and tables that a command made."""
UNSTABLE = (
    "jax._src",
    "jaxlib",
    "jax.experimental.topologies",
    "jax.experimental.pallas",
    "jax.experimental.mosaic",
    "jax.extend",
)
KERNEL_LANGUAGE = {"jax.experimental.pallas"}
"""The public names of Pallas (`pallas_call`, `program_id`, ...): a kernel is written in them."""
LINES = 500
MODULES = 16


def sources(folder):
    return [path for path in sorted((ROOT / folder).rglob("*.py")) if "notebooks" not in path.parts]


def parameters(*folders):
    return [pytest.param(path, id=str(path.relative_to(ROOT))) for folder in folders for path in sources(folder)]


def imported(path, at_import_only=False):
    """Full names that a file imports; `at_import_only` leaves out those inside functions and for type checkers."""
    for node in _statements(ast.parse(path.read_text()), at_import_only):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _statements(tree, at_import_only):
    for node in ast.iter_child_nodes(tree):
        if at_import_only and (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        ):
            continue
        yield node
        yield from _statements(node, at_import_only)


def _imports(path, modules):
    """The modules that a module imports with itself: of `from package import module` the module alone."""
    names = [name for name in imported(path, at_import_only=True) if name in modules]
    return {name for name, after in pairwise([*names, ""]) if not after.startswith(f"{name}.")}


def room_of(name):
    """The room of a module of the package by its dotted name; None for the package's own face, run or imported."""
    parts = [part for part in name.split(".") if part != "__main__"]
    return parts[1] if parts[0] == "normbench" and len(parts) > 1 else None


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("path", parameters("normbench"))
def test_imports_point_down(path):
    room = room_of(module_name(path))
    names = set(imported(path))
    assert not {name for name in names if name.split(".")[0] in ("benchmarks", "analysis", "kernels", "tests")}
    used = {used for name in names if (used := room_of(name)) in (*ROOMS, *LEAVES)} - {room}
    if room is None:
        return  # the face of the package loads from the rooms when it is asked
    allowed = set(LEAVES) if room in ROOMS else set(LEAVES[: LEAVES.index(room)]) | {"errors", "schema"}
    allowed |= set(ROOMS[: ROOMS.index(room)]) if room in ROOMS else set()
    allowed -= NOT_BY_KERNELS if room == "kernels" else set()
    assert used <= allowed, f"{path.relative_to(ROOT)} looks up to {sorted(used - allowed)}"


def test_no_module_imports_in_a_circle():
    """Of what is imported with the module; the registry alone imports, when first asked, those who register there."""
    modules = {module_name(path): path for path in sources("normbench")}
    graph = {name: _imports(path, modules) for name, path in modules.items()}
    done, way = set(), []

    def visit(name):
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name in done:
            return
        way.append(name)
        for other in graph[name]:
            visit(other)
        way.pop()
        done.add(name)

    for name in graph:
        visit(name)


@pytest.mark.parametrize("path", parameters("normbench", "analysis", "benchmarks"))
def test_unstable_parts_of_jax_are_reached_through_one_package(path):
    if "jax_compat" in path.parts:
        return
    names = {name for name in imported(path) if name.startswith(UNSTABLE)}
    wrong = {name for name in names if name not in KERNEL_LANGUAGE}
    assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}: reach it through normbench.jax_compat"


def test_the_package_in_use_is_this_checkouts():
    import normbench

    assert Path(normbench.__file__).is_relative_to(ROOT)


def test_every_module_is_short():
    paths = [path for folder in ("normbench", "analysis", "benchmarks") for path in sources(folder)]
    long = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in paths}
    assert not {path: lines for path, lines in long.items() if lines > LINES}


def test_no_folder_is_crowded():
    count = {}
    for path in sources("normbench"):
        count.setdefault(str(path.parent.relative_to(ROOT)), []).append(path)
    assert not {folder: len(paths) for folder, paths in count.items() if len(paths) > MODULES}


def test_benchmarks_are_front_ends_and_nothing_else():
    found = {path.name for path in (ROOT / "benchmarks").iterdir() if path.name != "__pycache__"}
    assert found >= {"__init__.py", "pytest"}
    assert all(name.startswith(("bench_", "__init__")) or name == "pytest" for name in found), sorted(found)


def test_the_link_for_people_is_relative():
    link = ROOT / "kernels"
    assert link.is_symlink()
    assert str(link.readlink()) == "normbench/kernels"


def test_kernels_refuse_to_be_a_second_package():
    code = "import sys; sys.path.insert(0, 'normbench'); import kernels"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "import it as normbench.kernels" in done.stderr


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import normbench", {"jax", "pandas", "numpy", "matplotlib"}),
        ("import normbench.cli.main", {"jax", "pandas", "numpy"}),
        ("import normbench.report", {"jax"}),
        ("import normbench; normbench.kernels", {"jax", "pandas"}),
    ],
)
def test_what_is_imported_comes_when_it_is_needed(statement, absent):
    code = f"{statement}; import sys; found = {absent!r} & set(sys.modules); sys.exit(str(found) if found else 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
