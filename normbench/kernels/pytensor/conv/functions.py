"""The convolutions that users call, in this package's vocabulary and, for `conv2d`, in PyTensor's former one."""

from collections.abc import Sequence
from typing import Any

import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from normbench.errors import UserError
from normbench.kernels.pytensor.checks import check_rank, float_tensor
from normbench.kernels.pytensor.conv.ops import Convolution, TransposedConvolution
from normbench.kernels.pytensor.conv.window import Padding

_SAME_MEANING = {"padding": "border_mode", "stride": "subsample", "dilation": "filter_dilation", "groups": "num_groups"}
_DEFAULTS = {"padding": "same", "stride": 1, "dilation": 1, "groups": 1}


def conv2d(
    x: Any,
    filters: Any,
    bias: Any = None,
    *,
    stride: int | Sequence[int] | None = None,
    padding: Padding | None = None,
    dilation: int | Sequence[int] | None = None,
    groups: int | None = None,
    border_mode: Padding | None = None,
    filter_flip: bool | None = None,
    subsample: int | Sequence[int] | None = None,
    filter_dilation: int | Sequence[int] | None = None,
    num_groups: int | None = None,
    input_shape: Sequence[int | None] | None = None,
    filter_shape: Sequence[int | None] | None = None,
) -> TensorVariable:
    """2-D cross-correlation, y[n, o] = bias[o] + sum over c of x[n, c] * filters[o, c].

    A bare `conv2d(x, filters)` is not what PyTensor's former `conv2d` computed: here the filters are not flipped and
    the padding is "same"; there they were flipped and the padding was "valid". As soon as one of PyTensor's keywords
    (from `border_mode` on) is given, the call means what it meant there: "valid" and flipped unless said otherwise.

    Args:
      x: (N, C, H, W).
      filters: (O, C / groups, kh, kw).
      bias: (O,), or None.
      stride, dilation: one number, or one per axis; 1 by default.
      padding: "same", the default, which gives ceil(size / stride) and puts the odd zero at the end, as in XLA;
        "valid"; "half" and "full", of the dilated kernel; a number; a number per axis; or a (low, high) pair per axis.
        No shape has to be static. At stride 2 PyTorch's padding=1 is `padding=1`, not "same".
      groups: divides C and O.
      border_mode, subsample, filter_dilation, num_groups: PyTensor's words for padding, stride, dilation and groups.
      filter_flip: whether the filters are turned by 180 degrees: True gives a convolution in the mathematical sense.
      input_shape, filter_shape: static shapes of x and filters; None where a size is not known.

    Returns:
      (N, O, OH, OW) in the widest dtype of the arguments.

    Raises:
      UserError: keywords, ranks, dtypes or static sizes that do not fit, or two words for one thing, naming them.
    """
    ours = {"padding": padding, "stride": stride, "dilation": dilation, "groups": groups}
    theirs = {
        "border_mode": border_mode,
        "subsample": subsample,
        "filter_dilation": filter_dilation,
        "num_groups": num_groups,
    }
    shapes = {"x": input_shape, "filters": filter_shape}
    as_pytensor = any(v is not None for v in (*theirs.values(), *shapes.values(), filter_flip))
    keywords = _one_vocabulary(ours, theirs, as_pytensor)
    given = {"x": x, "filters": filters}
    x, filters = (_with_shape(name, given[name], shapes[name]) for name in given)
    check_rank("filters", filters, 4)
    if as_pytensor and filter_flip is not False:
        filters = filters[:, :, ::-1, ::-1]
    return _convolve(2, x, filters, bias, keywords)


def conv1d(
    x: Any,
    filters: Any,
    bias: Any = None,
    *,
    stride: int = 1,
    padding: Padding = "same",
    dilation: int = 1,
    groups: int = 1,
) -> TensorVariable:
    """1-D cross-correlation of x (N, C, L) with filters (O, C / groups, k); arguments as `conv2d`."""
    return _convolve(
        1, x, filters, bias, {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    )


def conv3d(
    x: Any,
    filters: Any,
    bias: Any = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = "same",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> TensorVariable:
    """3-D cross-correlation of x (N, C, D, H, W) with filters (O, C / groups, kd, kh, kw); arguments as `conv2d`."""
    return _convolve(
        3, x, filters, bias, {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    )


def conv_transpose(
    x: Any,
    filters: Any,
    bias: Any = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    output_padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> TensorVariable:
    """Transposed convolution over one, two or three axes, as PyTorch's ConvTranspose1d, 2d and 3d.

    Args:
      x: (N, C, ...).
      filters: (C, O / groups, kernel...).
      padding: numbers, which take away from the result at both ends.
      output_padding: numbers, which add at the high end.

    Returns:
      (N, O, ...), per axis of size (size - 1) * stride + dilation * (k - 1) + 1 - low - high + output_padding.
    """
    x = float_tensor("x", x)
    check_rank("x", x, 3, 4, 5)
    y = TransposedConvolution(stride, padding, dilation, groups, output_padding, rank=x.type.ndim - 2)(x, filters)
    if bias is None:
        return y
    vector = float_tensor("bias", bias)
    check_rank("bias", vector, 1)
    return y + vector.dimshuffle("x", 0, *("x",) * (x.type.ndim - 2))


def silu(x: Any) -> TensorVariable:
    """x * sigmoid(x)."""
    x = float_tensor("x", x)
    return x * pt.sigmoid(x)


def _convolve(rank: int, x: Any, filters: Any, bias: Any, keywords: dict[str, Any]) -> TensorVariable:
    op = Convolution(**keywords, rank=rank)
    return op(x, filters) if bias is None else op(x, filters, bias)


def _one_vocabulary(ours: dict[str, Any], theirs: dict[str, Any], as_pytensor: bool) -> dict[str, Any]:
    keywords = {}
    for name, other in _SAME_MEANING.items():
        if ours[name] is not None and theirs[other] is not None:
            raise UserError(f"{name} {ours[name]!r} and {other} {theirs[other]!r} are the same keyword; allowed: one")
        default = "valid" if as_pytensor and name == "padding" else _DEFAULTS[name]
        keywords[name] = next((v for v in (ours[name], theirs[other]) if v is not None), default)
    return keywords


def _with_shape(name: str, value: Any, shape: Sequence[int | None] | None) -> TensorVariable:
    tensor = pt.as_tensor_variable(value)
    if shape is None:
        return tensor
    if len(shape) != tensor.type.ndim:
        raise UserError(
            f"the shape {tuple(shape)} given for {name} is not of its rank; allowed: rank {tensor.type.ndim}"
        )
    return pt.specify_shape(tensor, tuple(shape))
