"""The command that writes the patch for PyTensor, on a stand-in for a checkout: what it makes can be applied."""

import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(__file__).parents[3] / "upstream" / "write_patch.py"
MODULES = ("link/jax/dispatch", "link/numba/dispatch", "link/pytorch/dispatch", "tensor/rewriting")


def command(*arguments):
    return subprocess.run(
        [sys.executable, str(COMMAND), *map(str, arguments)], capture_output=True, text=True, check=False
    )


@pytest.fixture
def checkout(tmp_path):
    for name in MODULES:
        path = tmp_path / "pytensor" / name / "__init__.py"
        path.parent.mkdir(parents=True)
        path.write_text(f"# isort: off\nimport pytensor.{name.replace('/', '.')}.basic\n")
    return tmp_path


def test_the_patch_applies(checkout):
    done = command(checkout)
    assert done.returncode == 0, done.stderr
    assert not (checkout / "pytensor/tensor/batchnorm.py").exists()
    subprocess.run(["git", "apply", "-"], input=done.stdout, text=True, cwd=checkout, check=True)
    written = (checkout / "pytensor/tensor/batchnorm.py").read_text()
    assert written == (COMMAND.parent / "pytensor/pytensor/tensor/batchnorm.py").read_text()
    for name in MODULES:
        line = f"import pytensor.{name.replace('/', '.')}.batchnorm\n"
        assert line in (checkout / "pytensor" / name / "__init__.py").read_text()
    assert command(checkout).stdout == ""
    assert command(checkout, "--apply").returncode == 0


def test_no_checkout(tmp_path):
    done = command(tmp_path)
    assert done.returncode == 2
    assert "is no checkout of PyTensor" in done.stderr
