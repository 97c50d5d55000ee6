"""What is timed of a compiled program is the program, and not what wraps it, under every JAX at hand."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from normbench.cases.case import Case
from normbench.study.worker.compiled_case import compile_case

ROOT = Path(__file__).resolve().parents[3]
INTERPRETERS = [Path(sys.executable), *sorted(ROOT.glob(".venv-0*/bin/python"))]
DIRECT = """
import jax, jax.numpy as jnp
from normbench.jax_compat import direct_call
compiled = jax.jit(lambda x, y: {"sum": x + y}).lower(jnp.ones(3), jnp.ones(3)).compile()
assert direct_call(compiled) is compiled
result = compiled(jnp.ones(3), jnp.ones(3))
direct = direct_call(compiled)
assert direct is not compiled and not hasattr(type(direct), "memory_analysis")
assert (direct(jnp.ones(3), jnp.ones(3))["sum"] == result["sum"]).all()
"""


@pytest.mark.parametrize("interpreter", INTERPRETERS, ids=lambda path: path.parents[1].name)
def test_a_compiled_program_is_called_without_its_wrapper(interpreter):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    command = [str(interpreter), "-c", DIRECT]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(("pass_", "one"), [("forward", True), ("forward_backward", False)])
def test_one_array_is_waited_for_by_its_own_method(pass_, one, tmp_path):
    (tmp_path / "hlo").mkdir()
    compiled, _ = compile_case(Case.from_slug(f"layer_norm.alone.4x64.nc.f32.f32.{pass_}.naive"), "cpu", tmp_path)
    assert (compiled.wait is jax.block_until_ready) is not one
    inputs = jax.tree.map(lambda a: jnp.ones(a.shape, a.dtype), compiled.program.inputs)
    got, expected = compiled.wait(compiled.call(*inputs)), compiled.blocking(*inputs)
    jax.tree.map(np.testing.assert_array_equal, got, expected)
