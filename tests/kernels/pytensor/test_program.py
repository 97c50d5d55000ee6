"""What XLA makes of the Op, of the same formula in PyTensor and of hand-written JAX: one program."""

import re

import jax
import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.compile import get_mode

from normbench.kernels.pytensor import batch_normalization, conv2d, silu
from tests.kernels.pytensor.pytensor_cases import draw, draw_parameters, symbols

MODE = get_mode("JAX").excluding("fusion")  # as "JAX" itself since PyTensor 3.1: elementwise nodes reach XLA one by one


def written_in_jax(x, gamma, beta, mean, variance):
    gamma, beta, mean, variance = (v.reshape(-1, 1, 1) for v in (gamma, beta, mean, variance))
    return (x - mean) * (gamma * jax.lax.rsqrt(variance + np.float32(1e-5))) + beta


def written_in_pytensor(x, gamma, beta, mean, variance):
    gamma, beta, mean, variance = (v.dimshuffle("x", 0, "x", "x") for v in (gamma, beta, mean, variance))
    return (x - mean) * (gamma / pt.sqrt(variance + np.float32(1e-5))) + beta


def computation(compiled):
    """The optimised HLO with its names numbered in the order in which they appear, and without where they came from."""
    text = re.sub(r", metadata=\{[^}]*\}", "", compiled.as_text())
    text = text[text.index("\n\n") :]  # what precedes is the module's name, its layouts, and tables of source files
    text = text[min(i for i in (text.find("\n%"), text.find("\nENTRY")) if i >= 0) :]
    numbers = {}
    return re.sub(r"%?[A-Za-z_][\w]*[.][\w.]*|%[\w.-]+", lambda m: str(numbers.setdefault(m[0], len(numbers))), text)


def test_batch_norm():
    values = [draw(8, 16, 14, 14), *draw_parameters(16)]
    inputs = symbols(values)
    programs = [jax.jit(lambda *a: (written_in_jax(*a),)).lower(*values).compile()]
    for y in (batch_normalization(*inputs), written_in_pytensor(*inputs)):
        f = pytensor.function(inputs, y, mode=MODE, trust_input=True)
        programs.append(f.vm.jit_fn.lower(*values).compile())
    hand, op, composed = (computation(program) for program in programs)
    assert "fusion" in hand
    assert op == hand
    assert composed == hand


def test_block():
    values = [draw(1, 8, 14, 14), draw(16, 8, 3, 3), *draw_parameters(16)]

    def block(x, filters, *vectors):
        z = jax.lax.conv_general_dilated(x, filters, (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW"))
        z = written_in_jax(z, *vectors)
        return (z * jax.nn.sigmoid(z),)

    x, filters, *vectors = inputs = symbols(values)
    y = silu(batch_normalization(conv2d(x, filters, padding="same"), *vectors))
    f = pytensor.function(inputs, y, mode=MODE, trust_input=True)
    ours, hand = (g.lower(*values).compile() for g in (f.vm.jit_fn, jax.jit(block)))
    assert "convolution" in computation(hand)
    assert computation(ours) == computation(hand)


def test_explain():
    """What `analysis.explain` tells of a compiled PyTensor function is what it tells of hand-written JAX."""
    pytest.importorskip("pandas", reason="pandas, which analysis needs, is not installed")
    from normbench import explain

    values = [draw(8, 16, 14, 14), *draw_parameters(16)]
    inputs = symbols(values)
    f = pytensor.function(inputs, batch_normalization(*inputs), mode=MODE)
    ours, hand = (explain(g, *values, target="cpu") for g in (f.vm.jit_fn, written_in_jax))
    assert len(ours.launches) == len(hand.launches)
    assert ours.traffic_ratio == hand.traffic_ratio == pytest.approx(1.0, abs=0.01)
