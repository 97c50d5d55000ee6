"""What the assembler makes of the Pallas Mosaic kernels for the H200: registers, and how memory is accessed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
from functools import partial
import jax
import kernels
from analysis import explain
from kernels import Problem
operator, shape, layout, dtype = eval(sys.argv[1])
definition = kernels.operator(operator)
context = "alone" if operator in ("layer_norm", "rms_norm") else "silu"
problem = Problem(operator, shape, layout, dtype, "float32", context=context)
x, *parameters = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in definition.arguments(problem)]
called = partial(kernels.get(operator, "pallas_mosaic").function, **definition.keywords(problem))
def y_of(*arrays):
    found = called(*arrays)
    return found[0] if isinstance(found, tuple) else found
def both(dy, *arrays):
    y, pull = jax.vjp(y_of, *arrays)
    return y, pull(dy)
explain(both, x, x, *parameters, target="h200")
"""
ALIGNED = [
    ("layer_norm", (8192, 4096), "nc", "bfloat16"),
    ("rms_norm", (4096, 1000), "nc", "bfloat16"),
    ("batch_norm", (32, 64, 56, 56), "nchw", "float32"),
    ("batch_norm_training", (32, 256, 28, 28), "nchw", "bfloat16"),
    ("group_norm", (32, 256, 28, 28), "nchw", "float32"),
    ("group_norm", (32, 32, 32, 256), "nhwc", "bfloat16"),
    ("instance_norm", (32, 31, 31, 64), "nhwc", "bfloat16"),
]
ODD = [("layer_norm", (4096, 4097), "nc", "bfloat16"), ("batch_norm", (8192, 1001), "nc", "float32")]


def dumped(case, folder):
    """The PTX of the kernels of a case, forward and backward, and what ptxas said of them."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "MOSAIC_GPU_DUMP_TO": str(folder)}
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", SCRIPT, repr(case)], env=environment, cwd=root, check=True)
    return [path.read_text() for path in folder.glob("*.ptx")], [path.read_text() for path in folder.glob("*.ptxas")]


@pytest.mark.parametrize("case", ALIGNED + ODD, ids=lambda case: f"{case[0]}-{'x'.join(map(str, case[1]))}")
def test_nothing_is_spilled_and_tensors_move_in_bulk(case, tmp_path):
    pytest.importorskip("jax_cuda13_plugin")
    programs, resources = dumped(case, tmp_path)
    assert len(programs) == len(resources) == 2
    for text in resources:
        assert re.findall(r"(\d+) bytes (?:stack frame|spill)", text) == ["0", "0", "0"]
    for ptx in programs:
        assert ".local" not in ptx
        if case not in ODD:  # parameters and sums of float32 take the way through the registers
            assert "cp.async.bulk" in ptx
            assert not re.search(r"(ld|st)\.global\.b16", ptx)
