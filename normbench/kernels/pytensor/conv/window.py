"""The window of a convolution or a pooling: stride, padding, dilation, groups, and the sizes that follow from them.

Sizes may be whole numbers, symbolic dimensions of `jax.export`, or tracers: the arithmetic is Python's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from normbench.errors import UserError
from normbench.kernels.common.whole import is_whole

Sizes = tuple[int, ...]
Pair = tuple[int, int]
Padding = str | int | Sequence[int] | Sequence[Sequence[int]]
BY_NAME = ("same", "half", "full")
"""Paddings that depend on the sizes: "half" is half the dilated kernel on each side, "full" all of it but one."""


@dataclass(frozen=True, slots=True)
class Window:
    """Attributes are per spatial axis; `padding` is one of `BY_NAME` or (low, high) per axis."""

    stride: Sizes
    padding: str | tuple[Pair, ...]
    dilation: Sizes
    groups: int

    @property
    def rank(self) -> int:
        """The number of spatial axes."""
        return len(self.stride)

    def extent(self, kernel: Sequence[Any]) -> tuple[Any, ...]:
        """What the dilated kernel spans."""
        return tuple(d * (k - 1) + 1 for k, d in zip(kernel, self.dilation, strict=True))

    def pads(self, spatial: Sequence[Any], kernel: Sequence[Any]) -> tuple[tuple[Any, Any], ...]:
        """The zeros added at the low and the high end of each axis."""
        return tuple(
            axis_pads(self.axis_padding(axis), self.stride[axis], extent, spatial[axis])
            for axis, extent in enumerate(self.extent(kernel))
        )

    def output(self, spatial: Sequence[Any], kernel: Sequence[Any]) -> tuple[Any, ...]:
        """The spatial sizes of the result."""
        return tuple(
            axis_output(self.axis_padding(axis), self.stride[axis], extent, spatial[axis])
            for axis, extent in enumerate(self.extent(kernel))
        )

    def transposed_output(self, spatial: Sequence[Any], kernel: Sequence[Any], more: Sequence[int]) -> tuple[Any, ...]:
        """The spatial sizes of the input of which `spatial` is the output, and `more` at each high end."""
        axes = zip(spatial, self.stride, self.extent(kernel), self.pads(spatial, kernel), more, strict=True)
        return tuple((size - 1) * stride + extent - low - high + m for size, stride, extent, (low, high), m in axes)

    def axis_padding(self, axis: int) -> str | Pair:
        return self.padding if isinstance(self.padding, str) else self.padding[axis]

    def check_channels(self, channels: int | None, filters: Sequence[int | None]) -> None:
        """Raises `UserError` where the channels of x, (O, I / groups) of the filters, and groups do not fit."""
        features, per_group = filters[:2]
        if features is not None and features % self.groups:
            raise UserError(f"filters have {features} output channels; allowed: a multiple of groups {self.groups}")
        if None not in (channels, per_group) and channels != per_group * self.groups:  # type: ignore[operator]
            raise UserError(
                f"x has {channels} channels; allowed: {per_group} of the filters times groups {self.groups}"
            )

    def check_sizes(self, spatial: Sequence[Any], kernel: Sequence[int]) -> None:
        """Raises `UserError` where a kernel has no output; sizes that are not whole numbers are taken as they are."""
        if min(kernel) < 1:
            raise UserError(f"the kernel has size {tuple(kernel)}; allowed: 1 or more")
        if any(isinstance(size, int) and size < 1 for size in self.output(spatial, kernel)):
            raise UserError(f"a kernel of {tuple(kernel)} leaves no output of sizes {tuple(spatial)} with {self}")

    def check_arrays(self, x_shape: Sequence[Any], filters_shape: Sequence[int]) -> None:
        """Raises `UserError` where arrays of these shapes do not fit this window or each other."""
        self.check_channels(x_shape[1], filters_shape)
        self.check_sizes(x_shape[2:], filters_shape[2:])


def axis_pads(padding: str | Pair, stride: int, extent: Any, size: Any) -> tuple[Any, Any]:
    """Zeros at the two ends of one axis; of an odd total for "same" the larger part is at the high end."""
    if not isinstance(padding, str):
        return padding
    if padding == "half":
        return extent // 2, extent // 2
    if padding == "full":
        return extent - 1, extent - 1
    total = (
        extent - 1 if stride == 1 else max((axis_output("same", stride, extent, size) - 1) * stride + extent - size, 0)
    )
    return total // 2, total - total // 2


def axis_output(padding: str | Pair, stride: int, extent: Any, size: Any) -> Any:
    """The size of the result along one axis."""
    if padding == "same":
        return (size + stride - 1) // stride
    low, high = axis_pads(padding, stride, extent, size)
    return (size + low + high - extent) // stride + 1


def window(
    stride: int | Sequence[int], padding: Padding, dilation: int | Sequence[int], groups: int, rank: int = 2
) -> Window:
    """Checks and normalises the keywords of a convolution over `rank` axes; NumPy's whole numbers are taken too.

    Raises:
      UserError: stride, dilation or groups below 1; padding that is none of "same", "valid", "half", "full", a number,
        a number per axis, or a (low, high) pair per axis, each 0 or more.
    """
    if not is_whole(groups, 1):
        raise UserError(f"groups {groups!r} is not allowed; allowed: a whole number, 1 or more")
    return Window(
        per_axis("stride", stride, rank), _padding(padding, rank), per_axis("dilation", dilation, rank), int(groups)
    )


def per_axis(name: str, value: Any, rank: int, least: int = 1) -> Sizes:
    """One number for each axis, from one number or from `rank` of them."""
    values = (value,) * rank if isinstance(value, int | np.integer) else _items(value)
    if len(values) != rank or not all(is_whole(v, least) for v in values):
        raise UserError(f"{name} {value!r} is not allowed; allowed: {least} or more, one number or {rank}")
    return tuple(int(v) for v in values)


def _items(value: Any) -> tuple:
    return tuple(value) if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str) else ()


def _padding(padding: Padding, rank: int) -> str | tuple[Pair, ...]:
    if isinstance(padding, str) and padding in BY_NAME:
        return padding
    if isinstance(padding, str) and padding == "valid":
        return ((0, 0),) * rank
    values = (padding,) * rank if isinstance(padding, int | np.integer) else _items(padding)
    pairs = tuple((v, v) if isinstance(v, int | np.integer) else _items(v) for v in values)
    if len(pairs) != rank or not all(len(pair) == 2 and all(is_whole(v, 0) for v in pair) for pair in pairs):
        raise UserError(
            f"padding {padding!r} is not allowed; allowed: 'same', 'valid', 'half', 'full', one number, "
            f"{rank} numbers, or {rank} (low, high) pairs, each 0 or more"
        )
    return tuple((int(low), int(high)) for low, high in pairs)
