"""The window of a 2-D convolution: stride, padding, dilation, groups, and the sizes that follow from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from normbench.errors import UserError

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]
Padding = str | int | Sequence[int] | Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class Window:
    """Attributes are per axis (height, width); `padding` is "same" or (low, high) per axis."""

    stride: Pair
    padding: str | Pads
    dilation: Pair
    groups: int

    def extent(self, kernel: Sequence[Any]) -> tuple[Any, Any]:
        """What the dilated kernel spans."""
        return tuple(d * (k - 1) + 1 for k, d in zip(kernel, self.dilation, strict=True))  # type: ignore[return-value]

    def pads(self, spatial: Sequence[int], kernel: Sequence[int]) -> Pads:
        """The zeros added at the low and the high end of each axis; of an odd total for "same" more at the high end."""
        if not isinstance(self.padding, str):
            return self.padding
        axes = zip(spatial, self.stride, self.extent(kernel), strict=True)
        totals = (max((-(-size // stride) - 1) * stride + extent - size, 0) for size, stride, extent in axes)
        return tuple((total // 2, total - total // 2) for total in totals)  # type: ignore[return-value]

    def output(self, spatial: Sequence[Any], kernel: Sequence[Any]) -> tuple[Any, Any]:
        """The spatial sizes of the result, from whole or from symbolic sizes."""
        if isinstance(self.padding, str):
            return tuple(-(-size // stride) for size, stride in zip(spatial, self.stride, strict=True))  # type: ignore
        axes = zip(spatial, self.stride, self.extent(kernel), self.padding, strict=True)
        return tuple((size + low + high - extent) // stride + 1 for size, stride, extent, (low, high) in axes)  # type: ignore

    def check_channels(self, channels: int | None, filters: Sequence[int | None]) -> None:
        """Raises `UserError` where the channels of x, (O, I / groups) of the filters, and groups do not fit."""
        features, per_group = filters[:2]
        if features is not None and features % self.groups:
            raise UserError(f"filters have {features} output channels; allowed: a multiple of groups {self.groups}")
        if None not in (channels, per_group) and channels != per_group * self.groups:  # type: ignore[operator]
            raise UserError(
                f"x has {channels} channels; allowed: {per_group} of the filters times groups {self.groups}"
            )

    def check_arrays(self, x_shape: Sequence[int], filters_shape: Sequence[int]) -> None:
        """Raises `UserError` where arrays of these shapes do not fit this window or each other."""
        self.check_channels(x_shape[1], filters_shape)
        kernel = filters_shape[2:]
        if min(kernel) < 1:
            raise UserError(f"the kernel has size {tuple(kernel)}; allowed: 1 or more")
        if min(self.output(x_shape[2:], kernel)) < 1:
            raise UserError(f"a kernel of {tuple(kernel)} leaves no output of x {tuple(x_shape)} with {self}")


def window(stride: int | Sequence[int], padding: Padding, dilation: int | Sequence[int], groups: int) -> Window:
    """Checks and normalises the keywords of `conv2d`.

    Raises:
      UserError: stride, dilation or groups below 1; padding that is none of "same", "valid", a number, a number per
        axis, or a (low, high) pair per axis, each 0 or more.
    """
    if not _is_whole(groups, 1):
        raise UserError(f"groups {groups!r} is not allowed; allowed: a whole number, 1 or more")
    return Window(_pair("stride", stride), _padding(padding), _pair("dilation", dilation), groups)


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _pair(name: str, value: int | Sequence[int]) -> Pair:
    values = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, Sequence) else ()
    if len(values) != 2 or not all(_is_whole(v, 1) for v in values):
        raise UserError(f"{name} {value!r} is not allowed; allowed: 1 or more, one number or two")
    return values  # type: ignore[return-value]


def _padding(padding: Padding) -> str | Pads:
    if isinstance(padding, str) and padding in ("same", "valid"):
        return padding if padding == "same" else ((0, 0), (0, 0))
    values: tuple = ()
    if isinstance(padding, int):
        values = (padding, padding)
    elif isinstance(padding, Sequence) and not isinstance(padding, str):
        values = tuple(padding)
    pairs = tuple((v, v) if isinstance(v, int) else tuple(v) if isinstance(v, Sequence) else () for v in values)
    if len(pairs) != 2 or not all(len(pair) == 2 and all(_is_whole(v, 0) for v in pair) for pair in pairs):
        raise UserError(
            f"padding {padding!r} is not allowed; allowed: 'same', 'valid', one number, two numbers, "
            "or two (low, high) pairs, each 0 or more"
        )
    return pairs  # type: ignore[return-value]
