"""What the installed JAX makes of the smoke preset, against the goldens; and that a change is said in words."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from analysis.fusion import compile_environment
from benchmarks.golden import FOLDER, differences

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / FOLDER / jax.__version__ / "h200.json"
BEFORE = {"launches": 8, "kinds": {"loop": 6, "triton": 2}, "bytes": 3270, "traffic_ratio": 3.27}
AFTER = {"launches": 11, "kinds": {"loop": 11}, "bytes": 2270, "traffic_ratio": 2.27}


@pytest.mark.skipif(not GOLDEN.is_file(), reason=f"no goldens for jax {jax.__version__}")
def test_programs_are_as_the_goldens_say():
    pytest.importorskip("jax_cuda13_plugin")
    command = [sys.executable, "-m", "benchmarks.golden", "--check", "--target", "h200"]
    found = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **compile_environment()}, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr


def test_a_change_is_said_in_words():
    assert differences({"layer_norm.two_pass": BEFORE}, {"layer_norm.two_pass": AFTER}, "h200") == [
        "layer_norm.two_pass on h200: 8 → 11 launches; kinds: loop 6 → 11, triton 2 → 0; "
        "3.27 → 2.27 × the minimum bytes; 3,270 → 2,270 bytes"
    ]


def test_cases_that_appear_and_vanish_are_named():
    assert differences({}, {"a": BEFORE}, "h200") == ["a on h200: no golden yet"]
    assert differences({"a": BEFORE}, {}, "h200") == ["a on h200: in the golden only"]
    assert differences({"a": BEFORE}, {"a": BEFORE}, "h200") == []


def test_a_case_that_no_longer_compiles_says_why():
    failed = {"status": "failed", "reason": "ValueError: no"}
    assert differences({"a": BEFORE}, {"a": failed}, "h200") == ["a on h200: ok → failed: ValueError: no"]


@pytest.mark.parametrize(
    "path", sorted((ROOT / FOLDER).rglob("*.json")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_goldens_hold_counts_and_bytes(path):
    for row in json.loads(path.read_text()).values():
        assert row.get("status") == "failed" or sum(row["kinds"].values()) == row["launches"] > 0
