"""Interpreters at hand: this one, and every `.venv-<jax version>` beside the packages (`make matrix` makes them)."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INTERPRETERS = [sys.executable, *(str(path) for path in sorted(ROOT.glob(".venv-*/bin/python")))]


@cache
def facts_of(interpreter: str, script: str, *arguments: str) -> dict:
    """The JSON that a script of this folder prints under one version of JAX."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    environment.pop("XLA_FLAGS", None)
    command = [interpreter, str(ROOT / "tests" / "fusion" / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="session", params=INTERPRETERS, ids=lambda path: Path(path).parents[1].name)
def facts(request) -> dict:
    """What `explain` says of the programs in facts.py, by name, under one version of JAX."""
    return facts_of(request.param, "facts.py")["facts"]


@pytest.fixture(scope="session", params=INTERPRETERS, ids=lambda path: Path(path).parents[1].name)
def whole_facts(request) -> dict:
    """What the reader and the counter of HLO text say of the programs in programs.py, under one version of JAX.

    Under the others for a CPU only the programs that the tests name: compiling is most of it.
    """
    named = () if request.param == sys.executable else ("named",)
    return facts_of(request.param, "whole_facts.py", *named)
