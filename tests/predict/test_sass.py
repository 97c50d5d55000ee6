"""What is read of machine code, on kernels that ptxas assembles here."""

import subprocess

import pytest

from normbench.fusion.machine_code.cubin import kernels_of_cubin
from normbench.fusion.ptx import find_ptxas
from normbench.predict.sass import machine_code

HEAD = """.version 8.0
.target sm_90
.address_size 64
.visible .entry k(.param .u64 a, .param .u64 b)
.reqntid 128
{
	.reg .b64 %rd<9>;
	.reg .b32 %r<99>;
	.reg .f32 %f<99>;
	ld.param.u64 %rd1, [a];
	ld.param.u64 %rd2, [b];
	mov.u32 %r1, %tid.x;
	mul.wide.u32 %rd3, %r1, 256;
	add.s64 %rd1, %rd1, %rd3;
	add.s64 %rd2, %rd2, %rd3;
"""


def assembled(body, tmp_path):
    ptxas = find_ptxas()
    if ptxas is None:
        pytest.skip("there is no ptxas")
    source, binary = tmp_path / "k.ptx", tmp_path / "k.cubin"
    source.write_text(HEAD + body + "ret;\n}\n")
    subprocess.run([ptxas, "-arch=sm_90", str(source), "-o", str(binary)], check=True)
    return machine_code(kernels_of_cubin(binary.read_bytes())["k"].sass)


def loads(width, count):
    """Loads side by side; what they load is added up, as ptxas narrows a load of which a part is not used."""
    kind, lanes = {4: "f32", 8: "v2.f32", 16: "v4.f32"}[width], width // 4
    text = ""
    for i in range(count):
        names = ", ".join(f"%f{4 * i + lane}" for lane in range(lanes))
        text += f"ld.global.{kind} {names if lanes == 1 else f'{{{names}}}'}, [%rd1+{16 * i}];\n"
    for i in range(count):
        text += "".join(f"add.f32 %f90, %f90, %f{4 * i + lane};\n" for lane in range(lanes))
    return "mov.f32 %f90, 0f3F800000;\n" + text + "st.global.f32 [%rd2], %f90;\n"


@pytest.mark.parametrize(("width", "count"), [(4, 1), (4, 3), (8, 2), (16, 4)])
def test_bytes_under_way_are_those_of_loads_that_nothing_waits_for(width, count, tmp_path):
    assert assembled(loads(width, count), tmp_path).bytes_under_way == width * count


def test_a_load_whose_address_is_loaded_waits(tmp_path):
    chain = "ld.global.u64 %rd4, [%rd1];\nld.global.f32 %f1, [%rd4];\nst.global.f32 [%rd2], %f1;\n"
    assert assembled(chain, tmp_path).bytes_under_way == 8


def test_shuffles_side_by_side_take_less_than_one_after_the_other(tmp_path):
    chain = "mov.b32 %r2, %r1;\n"
    chain += "shfl.sync.bfly.b32 %r3, %r2, 1, 31, -1;\nadd.u32 %r2, %r2, %r3;\n" * 8
    chain += "st.global.u32 [%rd2], %r2;\n"
    beside = "".join(f"add.u32 %r{10 + i}, %r1, {i};\n" for i in range(8))
    beside += "".join(f"shfl.sync.bfly.b32 %r{20 + i}, %r{10 + i}, 1, 31, -1;\n" for i in range(8))
    beside += "".join(f"st.global.u32 [%rd2+{4 * i}], %r{20 + i};\n" for i in range(8))
    one, other = assembled(chain, tmp_path), assembled(beside, tmp_path)
    assert one.cycles > 8 * 24
    assert other.cycles < one.cycles / 2
