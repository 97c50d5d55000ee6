"""Masked kernels can be lowered for a GPU under every JAX at hand, also after they were traced to be interpreted."""

import os
import subprocess

import pytest

from tests.fusion.conftest import INTERPRETERS, ROOT

SCRIPT = """
from normbench.goldens.program import golden_program, lowered
for slug in (
    "batch_norm.alone.2x3x5x7.nchw.f32.f32.forward.pallas_triton",
    "rms_norm.alone.2x5x24.nlc.f32.f32.forward_backward.pallas_triton",
):
    lowered(golden_program(slug, "h200"), "h200")
"""


@pytest.mark.parametrize("interpreter", INTERPRETERS)
def test_masked_kernels_are_lowered(interpreter):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([interpreter, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
