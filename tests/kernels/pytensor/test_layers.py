"""Convolutions of other ranks, transposed ones, poolings and upsampling, against PyTorch: values and gradients."""

import pytensor
import pytensor.tensor as pt
import pytest

from normbench.errors import UserError
from normbench.kernels.pytensor import (
    avg_pool2d,
    conv1d,
    conv3d,
    conv_transpose,
    global_avg_pool,
    max_pool2d,
    upsample2d,
)
from tests.kernels.pytensor.pytensor_cases import assert_same, draw, run, symbols

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
F = torch.nn.functional
IMAGE = (2, 4, 7, 6)

CASES = {
    "conv1d": (
        [(2, 4, 9), (6, 2, 3), (6,)],
        lambda *a: conv1d(*a, stride=2, padding=1, dilation=2, groups=2),
        lambda *a: F.conv1d(*a, stride=2, padding=1, dilation=2, groups=2),
    ),
    "conv3d": (
        [(2, 3, 5, 6, 4), (4, 3, 3, 2, 3), (4,)],
        lambda *a: conv3d(*a, stride=(1, 2, 1), padding=(1, 0, 2)),
        lambda *a: F.conv3d(*a, stride=(1, 2, 1), padding=(1, 0, 2)),
    ),
    "conv_transpose1d": (
        [(2, 4, 5), (4, 3, 3)],
        lambda *a: conv_transpose(*a, stride=2, padding=1, output_padding=1),
        lambda *a: F.conv_transpose1d(*a, stride=2, padding=1, output_padding=1),
    ),
    "conv_transpose2d": (
        [IMAGE, (4, 3, 3, 2), (6,)],
        lambda *a: conv_transpose(*a, stride=(2, 1), padding=(0, 1), dilation=2, groups=2),
        lambda *a: F.conv_transpose2d(*a, stride=(2, 1), padding=(0, 1), dilation=2, groups=2),
    ),
    "max_pool2d": (
        [IMAGE],
        lambda x: max_pool2d(x, 3, stride=2, padding=1),
        lambda x: F.max_pool2d(x, 3, stride=2, padding=1),
    ),
    "max_pool2d uneven": (
        [IMAGE],
        lambda x: max_pool2d(x, (2, 3), stride=(1, 2), padding=(0, 1)),
        lambda x: F.max_pool2d(x, (2, 3), stride=(1, 2), padding=(0, 1)),
    ),
    "avg_pool2d": (
        [IMAGE],
        lambda x: avg_pool2d(x, 3, stride=2, padding=1),
        lambda x: F.avg_pool2d(x, 3, stride=2, padding=1),
    ),
    "avg_pool2d of what is there": (
        [IMAGE],
        lambda x: avg_pool2d(x, (3, 2), padding=1, count_include_pad=False),
        lambda x: F.avg_pool2d(x, (3, 2), padding=1, count_include_pad=False),
    ),
    "upsample2d": ([IMAGE], lambda x: upsample2d(x, (2, 3)), lambda x: F.interpolate(x, scale_factor=(2, 3))),
    "global_avg_pool": ([IMAGE], global_avg_pool, lambda x: x.mean((2, 3))),
}


@pytest.mark.parametrize("mode", ["JAX", "FAST_COMPILE"])
@pytest.mark.parametrize("name", CASES)
def test_against_pytorch(name, mode):
    shapes, ours, theirs = CASES[name]
    values = [draw(*shape, dtype="float64", seed=i) for i, shape in enumerate(shapes)]
    inputs = symbols(values)
    y = ours(*inputs)
    results = run(inputs, [y, *pytensor.grad((y**2).sum(), inputs)], values, mode)
    leaves = [torch.tensor(v, requires_grad=True) for v in values]
    expected = theirs(*leaves)
    (expected**2).sum().backward()
    assert_same(results, [expected.detach().numpy(), *(leaf.grad.numpy() for leaf in leaves)], rtol=1e-10)
    known = ours(*symbols(values, static=True)).type.shape
    assert known == results[0].shape


def test_errors():
    x = pt.tensor4("x")
    for call, message in (
        (lambda: max_pool2d(x, 2, padding=2), "padding 2 reaches past a kernel"),
        (lambda: max_pool2d(pt.matrix(), 2), "x has rank 2"),
        (lambda: max_pool2d(x, 0), "kernel 0"),
        (lambda: upsample2d(x, 0), "factor 0"),
        (lambda: conv_transpose(x, x, padding="same"), "padding 'same'"),
        (lambda: conv_transpose(x, x, output_padding=-1), "output_padding -1"),
        (lambda: conv1d(x, pt.tensor3()), "x has rank 4"),
    ):
        with pytest.raises(UserError, match=message):
            call()
