"""A project of somebody else's holds its fusion: a Llama block and a convolutional network, compiled for the H200."""

import importlib.util
import json
import shutil
import subprocess
import sys

import pytest

from tests.testing.project import MODEL, ROOT, TESTS, Project

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda13_plugin") is None, reason="needs the extra gpu-targets"
)

SMALL = """\
import jax
import jax.numpy as jnp


def test_small(fusion):
    fusion.check(jnp.{name}, jax.ShapeDtypeStruct((64, 128), "float32"))
"""


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """A project whose snapshots were written, and what pytest said."""
    folder = tmp_path_factory.mktemp("held")
    project = Project(folder / "project", folder / "cache")
    project.write(model=MODEL, test_model=TESTS)
    return project, project.pytest("--fusion-update")


@pytest.fixture
def project(held, tmp_path):
    """A copy of the project, with the cache of the first."""
    first, _ = held
    shutil.copytree(first.folder, tmp_path / "project")
    return Project(tmp_path / "project", first.cache)


@pytest.fixture
def small(held, tmp_path):
    """A project with one cheap test, and the cache of the others."""
    project = Project(tmp_path / "small", held[0].cache)
    project.write(test_small=SMALL.format(name="tanh"))
    return project


def test_the_first_run_writes_and_the_second_compiles_nothing(held):
    project, first = held
    assert first.status == 0, first.output
    assert "4 checks, 4 programs compiled, 0 found in the cache" in first.output
    second = project.pytest()
    assert second.status == 0, second.output
    assert "4 checks, 0 programs compiled, 4 found in the cache" in second.output
    text = (project.folder / "__snapshots__" / "test_model.fusion.json").read_text()
    assert str(project.folder) not in text
    assert "model.py" not in text


LOOP = "    return jax.lax.scan(lambda x, w: (layer(x, w), None), x, layers)[0]"
UNROLLED = "    for i in range(3):\n        x = layer(x, jax.tree.map(lambda w: w[i], layers))\n    return x\n"
LOST_CAST = "    y = y.astype(jnp.float32)\n"
OUTPUT = "* scale + shift).astype(x.dtype)"


@pytest.mark.parametrize(
    ("test", "old", "new", "said"),
    [
        ("test_norm", "return (normed * scale).astype(x.dtype)", "return normed * scale",
         ["33.6 MB → 50.3 MB (+50.0 %)", "dtype promotion: the output f32[4096,2048]", "model.py:7"]),
        ("test_cnn", OUTPUT, "* scale + shift)", ["was 4.2 MB", "dtype promotion"]),
        ("test_llama", LOOP, UNROLLED, ["no launch runs in a loop any more", "launches, 74 → ", "now apart from"]),
        ("test_cnn", OUTPUT, f"{OUTPUT}.transpose(0, 3, 1, 2) + 0 * x.transpose(0, 3, 1, 2)",
         ["kinds: loop 1 → 0, transpose 1 → 2", "transposed layout: input_transpose_fusion moves 6.3 MB"]),
    ],
    ids=["a promoted dtype", "a lost cast", "a broken scan", "a changed layout"],
)  # fmt: skip
def test_a_program_that_moves_more_fails_with_what_changed(project, test, old, new, said):
    project.replace("model", old, new)
    ran = project.pytest("-k", test)
    message = ran.message(test)
    assert ran.status == 1, ran.output
    assert len(message) <= 25
    assert message[0].startswith(f"{test} on h200, jax ")
    for words in said:
        assert words in "\n".join(message), ran.output


def test_a_program_that_moves_less_is_told_and_fails_only_where_it_has_to_be_exact(project):
    project.replace("test_model", "array(4096, 2048)", "array(4000, 2048)")
    ran = project.pytest("-k", "norm")
    assert ran.status == 0, ran.output
    assert "better: test_norm on h200" in ran.output
    assert project.pytest("-k", "norm", "--fusion-exact").status == 1


def test_what_moved_in_the_file_is_named_where_it_is_now(project):
    """The program with the float32 output is in the cache; its lines are those of another file."""
    project.replace("model", "return (normed * scale).astype(x.dtype)", "return normed * scale")
    project.pytest("-k", "norm")
    project.replace("model", "import jax\n", "import jax\n\n\n")
    assert "model.py:9" in project.pytest("-k", "norm").output


def test_snapshots_that_nothing_asks_for_are_told_and_removed(project):
    project.replace("test_model", "def test_norm(", "def test_rms(")
    ran = project.pytest("--deselect", "test_model.py::test_rms")
    assert "1 unused snapshots" in ran.output
    assert "test_norm, h200" in ran.output
    assert "unused" not in project.pytest("-k", "cnn", "test_model.py::test_cnn").output
    assert project.pytest("--fusion-update").status == 0
    text = (project.folder / "__snapshots__" / "test_model.fusion.json").read_text()
    assert set(json.loads(text)["checks"]) == {"test_cnn", "test_llama", "test_llama_gradient", "test_rms"}


def test_many_processes_write_one_file(project):
    pytest.importorskip("xdist")
    shutil.rmtree(project.folder / "__snapshots__")
    assert project.pytest("-p", "xdist", "-n2", "--fusion-update").status == 0
    ran = project.pytest("-p", "xdist", "-n2")
    assert ran.status == 0, ran.output
    assert "4 checks, 0 programs compiled" in ran.output


def test_no_cacheprovider_and_a_folder_that_cannot_be_written_to(small):
    assert small.pytest("-p", "no:cacheprovider", "--fusion-update").status == 0
    cache = str(small.folder / "test_small.py" / "no" / "folder")
    ran = small.pytest("-p", "no:cacheprovider", XDG_CACHE_HOME=cache)
    assert ran.status == 0, ran.output
    assert "1 programs compiled" in ran.output
    shutil.rmtree(small.folder / "__snapshots__")
    (small.folder / "__snapshots__").write_text("no folder")
    ran = small.pytest("-p", "no:cacheprovider", "--fusion-update")
    assert ran.status == 1
    assert "test_small.fusion.json' cannot be written: " in ran.output
    assert "Traceback" not in ran.output


def test_a_damaged_snapshot_is_one_clear_line(small):
    path = small.folder / "__snapshots__" / "test_small.fusion.json"
    path.parent.mkdir()
    path.write_text("{")
    ran = small.pytest()
    assert ran.status == 1
    assert [line for line in ran.message("test_small") if "is damaged" in line and "--fusion-update" in line]
    assert "Traceback" not in ran.output
    assert small.pytest("--fusion-update").status == 0
    assert json.loads(path.read_text())["checks"].keys() == {"test_small"}


def test_two_tests_of_one_name_in_two_folders(small):
    small.write(a__test_one=SMALL.format(name="tanh"), b__test_one=SMALL.format(name="cumsum"))
    options = ("--import-mode=importlib", "a", "b")
    assert small.pytest("--fusion-update", *options).status == 0
    assert small.pytest(*options).status == 0
    texts = {(small.folder / name / "__snapshots__" / "test_one.fusion.json").read_text() for name in "ab"}
    assert len(texts) == 2


LATER = ROOT / ".venv-0.12.0.1" / "bin" / "python"


def test_another_release_is_skipped_or_fails_as_asked(project):
    text = (project.folder / "__snapshots__" / "test_model.fusion.json").read_text()
    python = LATER
    if not LATER.exists():  # the snapshots of an earlier release, with this one
        import jax

        python = sys.executable
        text = text.replace(f"jax {jax.__version__}", "jax 0.10.1")
        (project.folder / "__snapshots__" / "test_model.fusion.json").write_text(text)
    ran = project.pytest("-k", "norm", python=python)
    assert ran.status == 0, ran.output
    assert "test_norm has no snapshot for h200, jax" in ran.output
    assert "FusionWarning" in ran.output
    assert "1 skipped" in ran.output
    ran = project.pytest("-k", "norm", "--fusion-strict", python=python)
    assert ran.status == 1
    assert "pytest --fusion-update makes one" in ran.output


def test_without_the_compiler_checks_are_skipped_with_what_to_install(small):
    small.write(conftest="import sys\nsys.modules['jax_cuda13_plugin'] = sys.modules['jax_cuda12_plugin'] = None\n")
    ran = small.pytest()
    assert ran.status == 0, ran.output
    assert "1 skipped" in ran.output
    assert "pip install 'normbench[gpu-targets]'" in ran.output


def test_collecting_tests_that_do_not_use_it_imports_no_jax(small):
    check = "import sys\n\n\ndef test_nothing():\n    assert not {'jax', 'pandas', 'numpy'} & set(sys.modules)\n"
    small.write(test_small=check)
    ran = small.pytest()
    assert ran.status == 0, ran.output
    assert "fusion ==" not in ran.output


LIMITS = """\
import jax
import jax.numpy as jnp
import pytest

X = jax.ShapeDtypeStruct((64, 128), "bfloat16")


@pytest.mark.parametrize("limits", [
    {"launches": 1, "max_ratio": 1.001, "max_bytes": 32768, "collectives": 0, "no_hint": "promotion"},
    {"launches": 0}, {"max_bytes": 1000}, {"max_ratio": 0.5}, {"max_predicted_s": 1e-9}, {"no_hint": "promotoin"},
    {"launches": -1}, {"target": "h201"}, {"target": "gpu"},
])
def test_limits(fusion, limits):
    fusion.check(jnp.tanh, X, **limits)


def test_hint(fusion):
    fusion.check(lambda x, y: x * y, X, jax.ShapeDtypeStruct((128,), "float32"), no_hint=("promotion", "layout"))


def test_own(fusion):
    report = fusion.report(jnp.tanh, X, target="a100")
    assert len(report.launches) == 1 and report.target == "a100"


def test_error(fusion):
    with pytest.raises(ZeroDivisionError):
        fusion.check(lambda x: x / (1 // 0), X)
"""


def test_limits_say_what_is_exceeded(small):
    small.write(test_small=LIMITS)
    ran = small.pytest()
    assert "9 failed, 3 passed" in ran.output, ran.output
    for words in (
        "1 launches, where at most 0 are allowed",
        "32.8 kB, where at most 1.0 kB are allowed",
        "1 x the minimum bytes, where at most 0.5 x are allowed",
        "where at most 1.00 ns is allowed",
        "unknown no_hint 'promotoin'; allowed: dtype promotion, ",
        "launches is -1; allowed: 0 or more",
        "unknown target 'h201'",
        "target 'gpu' is whichever GPU is present",
        "dtype promotion: the output f32[64,128]",
    ):
        assert words in ran.output
    assert "Traceback" not in ran.output


def test_releases_are_compared_program_by_program(small):
    """Each interpreter runs the checks; here it is the one, under another name it would be another release."""
    command = [sys.executable, "-m", "normbench.cli.main", "history", "--tests", "test_small.py"]
    done = subprocess.run(
        command, cwd=small.folder, env=small.environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(": 1 program\n")
    assert not (small.folder / "__snapshots__").exists()
