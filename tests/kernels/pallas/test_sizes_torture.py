"""Pallas kernels for GPUs, interpreted at each size of a list, in three dtypes and both passes, with races looked for.

By `make torture`; the ordinary suite has a sample (`test_mosaic_sizes`, `test_odd_sizes`). A size is the length of a
row, in every dtype, and the positions of channels first and last, whose dtypes take turns.
"""

import itertools

import pytest

from normbench.kernels.problem import Problem
from tests.kernels.norm_cases import check

READS_PROGRAMS = True
SIZES = (1, 7, 127, 129, 196, 3136, 4097, 16384, 16385, 65537)
DTYPES = ("float32", "bfloat16", "float16")
ROWS, CHANNELS = ("layer_norm", "rms_norm"), ("batch_norm", "batch_norm_training", "group_norm", "instance_norm")
LONG = 16384
"""From here on there is one row, or one channel of the fewest that a layout takes: each element is interpreted."""
WHOLE_CHANNELS = {"float32": 4, "bfloat16": 8, "float16": 8}
"""Channels that lie last take whole 16 bytes."""


def problems():
    for number, size in enumerate(SIZES):
        # A gradient of one element that is normalized alone is a difference of almost equal numbers.
        pass_ = "forward" if size == 1 else "forward_backward"
        for operator, dtype in itertools.product(ROWS, DTYPES):
            yield Problem(operator, (1 if size >= LONG else 3, size), "nc", dtype, "float32", pass_)
        for turn, (operator, layout) in enumerate(itertools.product(CHANNELS, ("ncl", "nlc"))):
            dtype = DTYPES[(number + turn) % len(DTYPES)]
            channels = WHOLE_CHANNELS[dtype] if layout == "nlc" else 2
            images = 1 if size >= LONG else 2
            shape = (images, channels, size) if layout == "ncl" else (images, size, channels)
            options = (("groups", 2),) if operator == "group_norm" else ()
            yield Problem(operator, shape, layout, dtype, "float32", pass_, options=options)


@pytest.mark.torture
@pytest.mark.parametrize("variant", ["pallas_triton", "pallas_mosaic"])
@pytest.mark.parametrize(
    "problem", list(problems()), ids=lambda p: f"{p.operator}-{'x'.join(map(str, p.shape))}-{p.dtype}"
)
def test_it_is_right(problem, variant):
    check(problem, variant)
