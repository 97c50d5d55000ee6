"""What a Mosaic kernel asks of the hardware stays within it, at sizes near the limit: no interpreter looks at this.

Each array begins at a multiple of 1024 bytes, the scratch of reductions takes 2048, a barrier counts to 2²⁰ - 1, and
each of the 128 threads of a program arrives for each copy (docs/kernels.md#hardware-checklist).
"""

import math
import random
import sys

import jax
import jax.numpy as jnp
import pytest

from normbench import kernels
from normbench.errors import UserError
from normbench.jax_compat import mosaic
from normbench.jax_compat.mosaic import SHARED_BYTES
from normbench.kernels import Problem

OPERATORS = ("layer_norm", "rms_norm", "batch_norm", "batch_norm_training", "group_norm", "instance_norm")
ELEMENT_BYTES = (2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 24, 28, 32)
FOUND = (  # rows that took more than they counted, and a channel of more images than a barrier counts
    Problem("layer_norm", (400, 11392), "nc", "float16", pass_="forward_backward"),
    Problem("layer_norm", (400, 10368), "nc", "bfloat16", context="cast"),
    Problem("rms_norm", (4, 11392), "nc", "bfloat16", pass_="forward_backward", context="residual"),
    Problem("batch_norm_training", (9000, 2, 8), "ncl", "bfloat16"),
)


@pytest.fixture
def asked(monkeypatch):
    """The scratch of each kernel that is called, which then returns zeros."""
    kernels.operators()  # imports them
    found = []

    def call(kernel, *, grid, out, scratch, name, cost):
        found.append((name, scratch))
        return lambda *arrays: tuple(jnp.zeros(one.shape, one.dtype) for one in out)

    ours = [module for name, module in sys.modules.items() if name.startswith("normbench.kernels")]
    for module in ours:
        if getattr(module, "mosaic_call", None) is mosaic.mosaic_call:
            monkeypatch.setattr(module, "mosaic_call", call)
        if hasattr(module, "mosaic_stack_copies"):
            monkeypatch.setattr(module, "mosaic_stack_copies", lambda count: 1)
    return found


def near_the_limit(random_numbers, operator):
    """A problem of which a program's share takes nearly all of its shared memory."""
    choice = random_numbers.choice
    length = int(SHARED_BYTES * random_numbers.uniform(0.93, 1.0) / choice(ELEMENT_BYTES))
    length = length // 128 * 128 if random_numbers.random() < 0.5 else length
    channels = choice((8, 16, 64))
    layout, shape = "nc", (choice((4, 400)), length)
    if operator in ("group_norm", "instance_norm", "batch_norm_training"):
        layout = choice(("ncl", "nlc"))
        images = choice((1, 2, 9000)) if operator == "batch_norm_training" else 2
        part = max(1, length // (images if operator == "batch_norm_training" else 1))
        shape = (images, channels, part) if layout == "ncl" else (2, max(1, length // channels), channels)
    return Problem(
        operator, shape, layout, choice(("bfloat16", "float16", "float32")), choice(("float32", "bfloat16")),
        choice(("forward", "forward_backward")), choice(kernels.operator(operator).contexts),
        options=(("groups", channels),) if operator == "group_norm" else (),
    )  # fmt: skip


def within_the_limits(problem, asked):
    asked.clear()
    try:
        program = kernels.program(problem, "pallas_mosaic")
        jax.eval_shape(program.function, *program.inputs)
    except UserError:  # in one line, which is allowed
        return
    for name, scratch in asked:
        arrays = [one for one in scratch if not hasattr(one, "num_arrivals")]
        barriers = [one for one in scratch if hasattr(one, "num_arrivals")]
        sizes = [math.prod(one.shape) * jnp.dtype(one.dtype).itemsize for one in arrays]
        taken = sum(-(-size // 1024) * 1024 for size in sizes) + 2048 + 8 * sum(map(_count, barriers))
        assert taken <= SHARED_BYTES, (problem, name, taken)
        assert all(128 * one.num_arrivals < 2**20 for one in barriers), (problem, name)


def _count(barrier):
    """A number, or a shape, by the release of JAX."""
    return math.prod(barrier.num_barriers) if isinstance(barrier.num_barriers, tuple) else barrier.num_barriers


@pytest.mark.parametrize("problem", FOUND, ids=lambda problem: f"{problem.operator}-{problem.shape[0]}")
def test_what_once_took_too_much(problem, asked):
    within_the_limits(problem, asked)
    assert asked


@pytest.mark.parametrize("operator", OPERATORS)
def test_sizes_near_the_limit(operator, asked):
    random_numbers = random.Random(operator)
    for _ in range(60):
        within_the_limits(near_the_limit(random_numbers, operator), asked)


@pytest.mark.parametrize(
    ("operator", "pass_", "element_bytes"),
    [("rms_norm", "forward", 4), ("layer_norm", "forward", 6), ("rms_norm", "forward_backward", 10)],
)
def test_every_row_at_the_limit(operator, pass_, element_bytes, asked):
    """Of whole warpgroups: some of their arrays end between the places where arrays begin."""
    longest = SHARED_BYTES // element_bytes
    for columns in range(longest // 1152 * 1024, longest, 128):
        within_the_limits(Problem(operator, (4, columns), "nc", "bfloat16", "bfloat16", pass_), asked)
