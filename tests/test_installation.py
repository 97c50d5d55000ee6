"""What is installed: one top-level package, the same from every source, beside whatever else is called `kernels`."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
THEIRS = {
    "benchmarks/__init__.py": "",
    "benchmarks/timing.py": "OURS = True\n",
    "kernels/__init__.py": "MINE = True\n",
    "kernels/norms.py": (
        "import jax.numpy as jnp\n\n\ndef rms(x):\n    return x / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)\n"
    ),
    "analysis.py": "def explain():\n    return 'mine'\n",
    "tests/test_mine.py": (
        "from analysis import explain\nfrom benchmarks import timing\nfrom kernels import MINE\n\n\n"
        "def test_mine():\n    assert explain() == 'mine' and timing.OURS and MINE\n"
    ),
    "pyproject.toml": "[tool.pytest.ini_options]\npythonpath = ['.']\n",
}
"""A project with folders of the names that this package once took."""
HIDING = "raise ImportError('a queue of the project, which nobody asked for')\n"
"""As queue.py in the project it hides a module of Python's own from whatever searches the current folder first."""


def run(command, cwd):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    environment.pop("PYTHONPATH", None)
    command = [str(part) for part in command]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def wheel_of(source, folder):
    """The wheel that pip builds from a folder, a tarball or a zip."""
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, source]
    run(command, folder.parent)
    (found,) = folder.glob("*.whl")
    return found


def files_of(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The tree as a checkout has it, and zipped, as a web page hands it out: links become small files."""
    pytest.importorskip("setuptools", "77", reason="building without isolation needs setuptools")
    folder = tmp_path_factory.mktemp("sources")
    tree = folder / "normbench-tree"
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    for name in ("normbench", "benchmarks", "analysis"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "*.ipynb"))
    (tree / "kernels").symlink_to("normbench/kernels")
    zipped = folder / "zipped"
    shutil.copytree(tree, zipped / tree.name, symlinks=True)
    (zipped / tree.name / "kernels").unlink()
    (zipped / tree.name / "kernels").write_text("normbench/kernels")
    return {"checkout": tree, "zip": Path(shutil.make_archive(str(folder / "tree"), "zip", zipped))}


@pytest.fixture(scope="module")
def wheel(sources, tmp_path_factory):
    return wheel_of(sources["checkout"], tmp_path_factory.mktemp("wheel") / "out")


def test_a_wheel_is_the_same_from_a_checkout_an_sdist_and_a_zip(sources, wheel, tmp_path):
    code = "import sys; from setuptools.build_meta import build_sdist; print(build_sdist(sys.argv[1]))"
    run([sys.executable, "-c", code, tmp_path], sources["checkout"])
    (sdist,) = tmp_path.glob("*.tar.gz")
    files = files_of(wheel)
    assert {name.split("/")[0] for name in files} == {"normbench"}
    assert "normbench/kernels/layer_norm/naive.py" in files
    assert "normbench/fusion/targets/h200.txtpb" in files
    assert "normbench/report/page/assets/report.css" in files
    assert files_of(wheel_of(sdist, tmp_path / "from-sdist")) == files
    assert files_of(wheel_of(sources["zip"], tmp_path / "from-zip")) == files


def other_kernels(folder):
    """A stand-in for the wheel of that name on the package index: the same top-level package, `kernels`."""
    path = folder / "kernels-0.1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("kernels/__init__.py", "HUB = True\n")
        archive.writestr("kernels-0.1.dist-info/METADATA", "Metadata-Version: 2.1\nName: kernels\nVersion: 0.1\n")
        archive.writestr(
            "kernels-0.1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("kernels-0.1.dist-info/RECORD", "")
    return path


@pytest.fixture(scope="module", params=["theirs first", pytest.param("ours first", marks=pytest.mark.torture)])
def environment(request, wheel, tmp_path_factory):
    """A virtual environment with both wheels, which finds what else is needed where this test's interpreter does."""
    folder = tmp_path_factory.mktemp("environment")
    run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], folder)
    python = folder / "env" / "bin" / "python"
    wheels = [other_kernels(folder), wheel]
    for one in wheels if request.param == "theirs first" else wheels[::-1]:
        run([sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", one], folder)
    here = [path for path in sys.path if path.endswith("site-packages")]
    (site,) = (folder / "env" / "lib").glob("python3*/site-packages")
    (site / "what-else-is-needed.pth").write_text("\n".join(here))
    return python


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    for name, text in THEIRS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_both_packages_are_imported_as_what_they_are(environment, tmp_path):
    code = (
        "import kernels, normbench; print(kernels.HUB, normbench.kernels.variants('rms_norm')[0], normbench.__file__)"
    )
    theirs, ours, file = run([environment, "-c", code], tmp_path).split()
    assert (theirs, ours) == ("True", "naive")
    assert Path(file).is_relative_to(environment.parents[1])


def test_a_project_with_folders_of_these_names_works_with_it(environment, project):
    command = environment.with_name("normbench")
    (project / "queue.py").write_text(HIDING)
    assert "rms_norm" in run([command, "list", "--preset", "smoke", "--operator", "rms_norm"], project)
    options = ["--shape", "8x128", "--dtype", "float32", "--target", "cpu"]
    assert "launch" in run([command, "explain", "--function", "kernels.norms:rms", *options], project)
    study = ["study", "--preset", "smoke", "--operator", "rms_norm", "--variant", "naive", "--target", "cpu"]
    assert "rms_norm" in run([command, *study], project)
    (project / "queue.py").unlink()
    run([environment, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"], project)


CHECK = """\
import jax


def test_tanh(fusion):
    fusion.check(jax.numpy.tanh, jax.ShapeDtypeStruct((8, 128), "float32"), target="cpu", launches=1)
"""


def test_the_pytest_plugin_comes_with_the_wheel(environment, tmp_path):
    (tmp_path / "test_tanh.py").write_text(CHECK)
    said = run([environment, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_tanh.py"], tmp_path)
    assert "1 checks, " in said
    assert "1 passed" in said
    named = run([environment, "-m", "pytest", "-q", "-p", "normbench.testing.plugin", "test_tanh.py"], tmp_path)
    assert "1 passed" in named
