"""The row kernels compiled for GPUs that are not there: launches, bytes, vectors, registers."""

import importlib.util

import pytest

from analysis.pages.kernels_triton import MOST_OF_LEAST
from normbench import explain, kernels
from normbench.kernels.pallas.hardware import MULTIPROCESSORS, REGISTERS
from normbench.kernels.problem import Problem

READS_PROGRAMS = True

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("jax_cuda13_plugin"), reason="needs the extra gpu-targets")


def compiled(operator, shape, dtype, pass_, context="alone", target="h200"):
    program = kernels.program(Problem(operator, shape, "nc", dtype, pass_=pass_, context=context), "pallas_triton")
    return explain(program.function, *program.inputs, target=target)


def check_machine_code(report, launches):
    """Few launches of ours alone; the main ones move whole vectors; nothing goes to local memory."""
    found = report.launches
    assert len(found) <= launches
    assert set(found.kind) == {"pallas"}
    assert found.load_bytes[0] == 16
    assert found.store_bytes.max() == 16
    spilled = found.spill_bytes.dropna()  # of ptxas, where it is installed
    assert not spilled.any()


RESIDENT = [
    ("rms_norm", (1576, 768), "bfloat16", "alone"),
    ("layer_norm", (3152, 768), "bfloat16", "gelu"),
    ("layer_norm", (8192, 4096), "float32", "alone"),
    ("layer_norm", (4096, 12288), "bfloat16", "residual"),
    ("rms_norm", (8192, 4096), "bfloat16", "alone"),
    ("rms_norm", (2048, 5120), "float16", "residual"),
]


@pytest.mark.parametrize("case", RESIDENT)
@pytest.mark.parametrize("pass_", ["forward", "backward"])
def test_a_row_in_registers_moves_the_minimum(case, pass_):
    operator, shape, dtype, context = case
    report = compiled(operator, shape, dtype, pass_, context)
    check_machine_code(report, 1 if pass_ == "forward" else 2)
    assert report.declared_bytes <= MOST_OF_LEAST[pass_] * report.minimum_bytes


@pytest.mark.parametrize(
    ("shape", "most"), [((1576, 768), 1.2), ((2048, 12288), 1.2), ((512, 4096), 1.75), ((103, 8192), 2.4)]
)
def test_few_rows_have_a_program_on_nearly_every_multiprocessor(shape, most):
    """Their partial sums take the bytes that this needs, and the time is that of a few rows."""
    report = compiled("layer_norm", shape, "bfloat16", "backward")
    check_machine_code(report, 2)
    assert report.declared_bytes <= most * report.minimum_bytes
    naive = kernels.program(Problem("layer_norm", shape, "nc", "bfloat16", pass_="backward"), "naive")
    assert report.predicted_s < explain(naive.function, *naive.inputs, target="h200").predicted_s


@pytest.mark.parametrize(
    ("shape", "dtype", "pass_", "walks"),
    [
        ((2048, 16384), "bfloat16", "forward", 2),
        ((1024, 32768), "bfloat16", "forward", 2),
        ((1024, 32768), "float32", "forward", 2),
        ((2048, 16384), "bfloat16", "backward", 5),
        ((512, 65536), "bfloat16", "forward", 3),
        ((512, 65536), "float32", "backward", 5),
    ],
)
def test_long_rows_move_the_streaming_minimum(shape, dtype, pass_, walks):
    """`walks` over a tensor: 2 and 3 with a row in registers, 3 and 5 where it is streamed. There is no cliff."""
    report = compiled("layer_norm", shape, dtype, pass_)
    check_machine_code(report, 1 if pass_ == "forward" else 2)
    item = {"bfloat16": 2, "float32": 4}[dtype]
    assert report.declared_bytes == pytest.approx(walks * shape[0] * shape[1] * item, rel=0.01)


@pytest.mark.parametrize("pass_", ["forward", "backward"])
def test_on_an_a100(pass_):
    report = compiled("layer_norm", (8192, 4096), "bfloat16", pass_, target="a100")
    check_machine_code(report, 2)
    assert report.declared_bytes <= MOST_OF_LEAST[pass_] * report.minimum_bytes


def test_rows_that_are_not_aligned_and_float64_compile():
    for shape, dtype in (((2048, 4098), "bfloat16"), ((64, 127), "float32"), ((256, 4096), "float64")):
        assert len(compiled("layer_norm", shape, dtype, "forward").launches) == 1
        assert len(compiled("layer_norm", shape, dtype, "backward").launches) <= 2


def test_forward_and_backward_against_autodiff_of_the_textbook_formula():
    problem = Problem("layer_norm", (8192, 4096), "nc", "bfloat16", pass_="forward_backward")
    sizes = {}
    for name in ("naive", "custom_vjp", "pallas_triton"):
        program = kernels.program(problem, name)
        report = explain(program.function, *program.inputs, target="h200")
        sizes[name] = report.declared_bytes or report.bytes
    assert sizes["naive"] >= 2.5 * sizes["pallas_triton"]
    # 6 walks against 5, and what 216 programs leave for gamma and beta: with fewer, bytes go down and time goes up.
    assert sizes["custom_vjp"] >= 1.15 * sizes["pallas_triton"]


@pytest.mark.parametrize(("operator", "columns"), [("rms_norm", 256), ("layer_norm", 768)])
def test_rows_that_warps_have_to_themselves_wait_at_no_barrier(operator, columns):
    """No sum crosses warps, and each thread loads gamma and beta where it needs them."""
    report = compiled(operator, (8192, columns), "bfloat16", "forward")
    assert list(report.launches.shared_bytes) == [0]


ROOM = [
    ("layer_norm", (8192, 768), "bfloat16"),
    ("layer_norm", (8192, 1280), "bfloat16"),
    ("layer_norm", (40000, 1280), "bfloat16"),
    ("rms_norm", (16384, 2560), "bfloat16"),
    ("rms_norm", (40000, 576), "float16"),
    ("layer_norm", (9127, 1664), "float32"),
    ("layer_norm", (8117, 2784), "bfloat16"),
]


@pytest.mark.parametrize("case", ROOM)
def test_all_programs_of_a_gradient_have_room_at_once_and_fill_it(case):
    """Registers are given out by 256 for each warp; a program without room would wait for another one to end."""
    report = compiled(*case, "backward")
    check_machine_code(report, 2)
    assert report.declared_bytes <= MOST_OF_LEAST["backward"] * report.minimum_bytes
    found = report.launches.iloc[0]
    programs, warps = int(found.grid), int(found.block) // 32
    room = REGISTERS // (256 * -(-int(found.registers) * 32 // 256) * warps)
    assert programs <= room * MULTIPROCESSORS
    assert programs * warps >= 6 * MULTIPROCESSORS
