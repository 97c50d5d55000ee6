"""Local response norm against torch.nn.functional."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from normbench.kernels import aten
from tests.kernels.aten.agreement import Question, Scale, assert_agrees
from tests.kernels.aten.drawn import SEEDS, Data, few, largest
from tests.kernels.aten.torch_judge import NN


@few
@given(
    shape=st.lists(st.integers(1, 6), min_size=3, max_size=5),
    size=st.integers(1, 9),
    constants=st.sampled_from(((1e-4, 0.75, 1.0), (0.9, 0.5, 2.0), (0.3, 1.0, 0.5))),
    dtype=st.sampled_from(("float32", "float64", "float32", "bfloat16", "float16")),
    seed=SEEDS,
)
def test_local_response_norm(judge, shape, size, constants, dtype, seed):
    half = dtype in ("bfloat16", "float16")  # PyTorch on CPU has half precision for rank 3 only
    shape = shape[:3] if half else shape
    data = Data(seed)
    x, dy = data.normal(shape, dtype, spread=2.0), data.normal(shape, dtype)
    condition = 1 + largest(x) ** 2
    y = Scale(largest(x) * 2 * (4 if half else 1), condition, size)
    dx = Scale(largest(dy) * size * 4 * condition, condition, size)
    question = Question(
        f"{NN}:local_response_norm",
        aten.local_response_norm,
        (x, size, *constants),
        (y,),
        dtype,
        cotangent=dy,
        differentiated=(0,),
        gradient_scales=(dx,),
        channels_last=True,
    )
    assert_agrees(judge, question)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_empty_input_is_returned(judge, dtype):
    x = np.zeros((0, 3, 4), dtype)
    scale = (Scale(0, 0, 0),)
    torch = f"{NN}:local_response_norm"
    assert_agrees(judge, Question(torch, aten.local_response_norm, (x, 2), scale, "float32"))
