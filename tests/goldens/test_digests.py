"""Equal programs have equal digests, whatever the checkout, the order of compilation and what was compiled before."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from normbench.jax_compat.embedded import without_source_lines

ROOT = Path(__file__).resolve().parents[2]
INTERPRETERS = [Path(sys.executable), *sorted(ROOT.glob(".venv-0*/bin/python"))]
SLUGS = (
    "rms_norm.alone.2x64x256.nlc.f32.f32.forward.eps1em06.naive",
    "rms_norm.alone.2x64x256.nlc.bf16.f32.forward_backward.eps1em06.pallas_triton",
    "layer_norm.alone.8x197x768.nlc.bf16.f32.forward_backward.eps1em06.pallas_mosaic",
    "batch_norm.relu.32x128x64x64.nchw.bf16.f32.forward.pallas_mosaic",
    "batch_norm.silu.32x64x64x64.nchw.f32.f32.forward.eps0p001.pallas_mosaic",
)
SCRIPT = """
import json, sys
import normbench
from normbench.fusion.compilation import compile_bytecode_for
from normbench.goldens.program import golden_program, lowered
found = {}
for slug in sys.argv[1:]:
    bytecode, program = lowered(golden_program(slug, "h200"), "h200")
    found[slug] = program, compile_bytecode_for(bytecode, "h200", 0.0).hlo_sha256
print(json.dumps({"from": normbench.__file__, "digests": found}))
"""


def digests(checkout, slugs):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_gpu_autotune_level=0"}
    environment["PYTHONPATH"] = str(checkout)
    command = [sys.executable, "-c", SCRIPT, *slugs]
    done = subprocess.run(command, env=environment, cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert Path(found["from"]).is_relative_to(checkout)
    return {slug: tuple(pair) for slug, pair in found["digests"].items()}


def test_a_program_has_one_digest_in_every_checkout_and_order(tmp_path):
    pytest.importorskip("jax_cuda13_plugin")
    other = tmp_path / "another" / "checkout"
    shutil.copytree(ROOT / "normbench", other / "normbench", ignore=shutil.ignore_patterns("__pycache__"))
    here = digests(ROOT, SLUGS)
    assert digests(other, SLUGS[::-1]) == here
    assert len({program for program, _ in here.values()}) == len(SLUGS)
    assert len({compiled for _, compiled in here.values()}) == len(SLUGS)


TWICE = """
from normbench.goldens.program import golden_program, lowered
print(*(lowered(golden_program("{slug}", "h200"), "h200")[1] for _ in range(2)))
"""


@pytest.mark.parametrize("python", INTERPRETERS, ids=lambda path: path.parts[-3])
def test_what_was_lowered_before_does_not_count_in_any_release(python):
    """JAX 0.11 numbers the kernels of a process, and writes the number into each."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    command = [str(python), "-P", "-c", TWICE.format(slug=SLUGS[2])]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = done.stdout.split()
    assert first == second


def test_a_kernel_that_does_something_else_has_another_digest():
    """Of what is embedded nothing but its source lines is dropped."""
    import jax
    import jax.numpy as jnp
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton as plgpu

    from normbench.jax_compat import lower_for

    def doubled(factor):
        def kernel(x, y):
            y[...] = x[...] * factor

        call = pl.pallas_call(
            kernel, out_shape=jax.ShapeDtypeStruct((128,), jnp.float32), compiler_params=plgpu.CompilerParams()
        )
        return without_source_lines(lower_for(call, (jnp.ones(128),), "cuda", "NVIDIA H200").as_text())

    assert doubled(2.0) == doubled(2.0)
    assert doubled(2.0) != doubled(3.0)
    assert "ML" + r"\EFR" not in doubled(2.0)
