"""What the assembler makes of the Pallas Mosaic kernels for the H200: registers, and how memory is accessed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from normbench import kernels
from normbench.fusion.compilation import compile_for
from normbench.kernels import Problem
from normbench.kernels.pallas.mosaic import row_norm
from normbench.kernels.pallas.mosaic.plan import Plan

SCRIPT = """
import sys
from functools import partial
import jax
from normbench import kernels
from normbench import explain
from normbench.kernels import Problem
for operator, shape, layout, dtype in eval(sys.argv[1]):
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
    ("instance_norm", (32, 31, 31, 64), "nhwc", "bfloat16"),
    ("batch_norm_training", (64, 64, 56, 56), "nchw", "bfloat16"),
]
"""The last one comes in pieces."""
MORE = [
    ("batch_norm_training", (32, 256, 28, 28), "nchw", "bfloat16"),
    ("group_norm", (32, 256, 28, 28), "nchw", "float32"),
    ("group_norm", (32, 32, 32, 256), "nhwc", "bfloat16"),
    ("group_norm", (18, 64, 64, 320), "nhwc", "bfloat16"),
]
ODD = [("layer_norm", (4096, 4097), "nc", "bfloat16"), ("batch_norm", (8192, 1001), "nc", "float32")]


def dumped(cases, folder):
    """The PTX of the kernels of the cases, forward and backward, and what ptxas said of them."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "MOSAIC_GPU_DUMP_TO": str(folder)}
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", SCRIPT, repr(cases)], env=environment, cwd=root, check=True)
    programs, resources = ([path.read_text() for path in folder.glob(f"*.{kind}")] for kind in ("ptx", "ptxas"))
    assert len(programs) == len(resources) == 2 * len(cases)
    return programs, resources


@pytest.mark.parametrize(
    "cases", [ALIGNED, ODD, pytest.param(MORE, marks=pytest.mark.torture)], ids=["aligned", "odd", "more"]
)
def test_nothing_is_spilled_and_tensors_move_in_bulk(cases, tmp_path):
    pytest.importorskip("jax_cuda13_plugin")
    programs, resources = dumped(cases, tmp_path)
    for text in resources:
        assert re.findall(r"(\d+) bytes (?:stack frame|spill)", text) == ["0", "0", "0"]
    for ptx in programs:
        assert ".local" not in ptx
        if cases is not ODD:  # parameters and sums of float32 take the way through the registers
            assert "cp.async.bulk" in ptx
            assert not re.search(r"(ld|st)\.global\.b16", ptx)


@pytest.mark.parametrize(("length", "together"), [(1023, False), (1024, True)])
def test_what_begins_at_any_address_is_loaded_element_by_element(length, together):
    """Several elements at once from an address that is no multiple of their size would be a fault of the device, which
    no interpreter sees."""
    pytest.importorskip("jax_cuda13_plugin")
    problem = Problem("group_norm", (2, 8, length), "ncl", "bfloat16", options=(("groups", 2),))
    program = kernels.program(problem, "pallas_mosaic")
    assembly = compile_for(program.function, program.inputs, "h200").reading.assembly
    (launch,) = assembly.entries
    assert bool(re.findall(r"\.shared\.v\d\.b16", assembly.code(launch).ptx)) == together


@pytest.mark.parametrize(
    ("pass_", "columns", "slots", "left"),
    [("forward", 1024, 3, 0), ("backward", 1024, 3, 1), ("backward", 12288, 2, 0)],
)
def test_a_place_is_filled_again_when_all_but_what_other_places_hold_has_left(pass_, columns, slots, left):
    """The interpreter copies at once, so that it sees no race with what is on its way out."""
    pytest.importorskip("jax_cuda13_plugin")
    problem = Problem("rms_norm", (8192, columns), "nc", "bfloat16", pass_=pass_)
    share = row_norm.forward_rows if pass_ == "forward" else row_norm.backward_rows
    plan = Plan("rms_norm", 1e-6, "none", "bfloat16", centered=False, shifted=False)
    assert share(problem.shape, "bfloat16", ("float32",), plan, False).slots == slots
    program = kernels.program(problem, "pallas_mosaic")
    assembly = compile_for(program.function, program.inputs, "h200").reading.assembly
    (ptx,) = (assembly.code(entry).ptx for entry, symbol in assembly.entries.items() if symbol.startswith("mosaic"))
    assert {int(groups) for groups in re.findall(r"bulk\.wait_group\.read\s+(\d+)", ptx)} == {left}
    assert re.findall(r"bulk\.wait_group\s+(\d+)", ptx) == ["0"]  # before the program ends
