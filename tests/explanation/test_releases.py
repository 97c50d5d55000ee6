"""Arguments and refusals are the same under every JAX at hand."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INTERPRETERS = [sys.executable, *(str(path) for path in sorted(ROOT.glob(".venv-*/bin/python")))]


@pytest.fixture(scope="module", params=INTERPRETERS, ids=lambda path: Path(path).parents[1].name)
def facts(request):
    if importlib.util.find_spec("jax_cuda13_plugin") is None:
        pytest.skip("needs the extra gpu-targets")
    flags = "--xla_force_host_platform_device_count=2"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "XLA_FLAGS": flags}
    command = [request.param, "-m", "tests.explanation.facts"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_arguments_arrive_as_they_were_given(facts):
    found = facts["facts"]
    assert "bf16[8,16]{1,0}, f32[])->bf16[8,16]" in found["weak"]["head"]
    assert "input_output_alias" in found["donated"]["head"]
    assert "(f32[16,4]{1,0}, f32[8,16]{1,0})->f32[8,4]" in found["module"]["head"]
    assert "(u32[2]{0})->f32[4]" in found["key"]["head"]
    assert "bf16[8,16]{1,0})->bf16[8,16]" in found["shard_map"]["head"]
    assert "(f32[4]{0}, f32[])->f32[4]" in found["two devices"]["head"]  # of eight elements, those of one device


def test_what_cannot_be_compiled_is_one_line(facts):
    for name, words in (
        ("float64", "UserError: argument 1 is float64, of which JAX makes float32 while jax_enable_x64 is off"),
        ("callback", "UserError: the function calls back into Python (pure_callback)"),
        ("in a loop", "UserError: the function calls back into Python (debug_print)"),
        ("custom call", "CompileError: failed: the compiler here knows no custom call 'of_somebody_else'"),
        ("too large", "UserError: arguments of 17.6 TB and results of 17.6 TB do not fit 'h200'"),
    ):
        line = facts["facts"][name]["error"]
        assert line.startswith(words)
        assert "\n" not in line


def test_attention_with_12_heads_and_197_tokens_compiles(facts):
    found = facts["facts"]["attention"]
    assert found["bytes"] > 0
    assert bool(found["notes"]) == (tuple(map(int, facts["jax"].split(".")[:2])) < (0, 12))
