"""The machine code that XLA keeps is what ptxas makes of its PTX; what it does not keep, ptxas makes."""

import zlib
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from normbench import kernels
from normbench.fusion.compilation import compile_for
from normbench.fusion.machine_code import assembly as assembly_module
from normbench.fusion.machine_code.cubin import cubins_of_cache, kernels_of_cubin
from normbench.fusion.ptx import find_ptxas
from normbench.kernels import Problem

pytest.importorskip("jax_cuda13_plugin")
ROWS = Problem("layer_norm", (8, 197, 768), "nlc", "bfloat16", "float32", "forward_backward")
IMAGES = Problem("batch_norm_training", (8, 14, 14, 64), "nhwc", "bfloat16", "float32", "backward")


def assembly_of(problem, variant, target):
    program = kernels.program(problem, variant)
    return compile_for(program.function, program.inputs, target).reading.assembly


@pytest.mark.parametrize("target", ["a100", "h200", "b200"])
@pytest.mark.parametrize(("problem", "variant"), [(ROWS, "naive"), (IMAGES, "custom_vjp"), (ROWS, "pallas_triton")])
def test_registers_and_spills_are_those_of_ptxas(problem, variant, target, monkeypatch):
    if find_ptxas() is None:
        pytest.skip("there is no ptxas")
    assembly = assembly_of(problem, variant, target)
    assert len(assembly.made) == len(assembly.files) > 0
    anew = replace(assembly, made=())
    for launch in assembly.entries:
        code, expected = assembly.code(launch), anew.code(launch)
        assert (code.ptx, code.registers, code.spill_bytes) == (expected.ptx, expected.registers, expected.spill_bytes)
        assert len(code.sass) == len(expected.sass)
    assembly_module._assembled.cache_clear()
    monkeypatch.setattr(assembly_module, "_run", None)  # what XLA has kept is not made again
    assert {assembly.code(launch).registers for launch in assembly.entries} != {None}


def test_what_xla_does_not_keep_is_assembled():
    if find_ptxas() is None:
        pytest.skip("there is no ptxas")
    assembly = assembly_of(Problem("rms_norm", (64, 1024), "nc", "bfloat16", "float32"), "pallas_mosaic", "h200")
    assert assembly.made == ()
    assert {assembly.code(launch).registers > 0 for launch in assembly.entries} == {True}


def test_a_kernel_with_a_stack_is_assembled_for_its_spills(monkeypatch):
    """A cubin has the size of the stack, and not what is stored to it."""
    x = jax.ShapeDtypeStruct((64, 128), jnp.float32)
    assembly = compile_for(jnp.tanh, (x,), "h200").reading.assembly
    (cubin,) = assembly.made
    ((name, machine),) = kernels_of_cubin(zlib.decompress(cubin)).items()
    assert machine.frame_bytes == 0
    with_stack = {name: replace(machine, frame_bytes=8)}
    monkeypatch.setattr(assembly_module, "_assemble", lambda *_: "assembled")
    assert assembly_module._code("ptxas", with_stack, assembly.files[0]) == "assembled"
    assert assembly_module._code("ptxas", {name: machine}, assembly.files[0])[name].registers == machine.registers


@pytest.mark.parametrize("content", [b"", b"\x0a", b"\x0a\x04\x12\x02\x0a\x00", b"no message at all"])
def test_a_file_without_cubins_has_none(content):
    assert cubins_of_cache(content) == ()
    assert kernels_of_cubin(content) == {}
