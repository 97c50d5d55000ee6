"""The geometry of a convolution: layout, window, padding and groups, checked once and shared by variants and reference.

Weight layouts, for O output channels, I input channels, G groups:

| layout of x            | convolution         | transposed convolution (PyTorch's ConvTranspose) |
|------------------------|---------------------|--------------------------------------------------|
| ncl, nchw, ncdhw       | (O, I/G, *kernel)   | (I, O/G, *kernel)                                |
| nlc, nhwc, ndhwc       | (*kernel, I/G, O)   | (*kernel, I, O/G)                                |
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from normbench.errors import UserError, unknown
from normbench.kernels.common.checks import layouts_of_rank
from normbench.kernels.common.whole import is_whole

LAYOUTS = layouts_of_rank(3, 4, 5)

Pairs = tuple[tuple[int, int], ...]
Padding = str | int | Sequence[int] | Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Geometry:
    """A convolution without its sizes.

    Attributes:
      layout: of x and y, one of `LAYOUTS`.
      stride, dilation: one number per spatial axis.
      padding: "same", "valid", or (low, high) per spatial axis. Of a transposed convolution it is what is cut off the
        full output, as in PyTorch; "same" gives ceil(size / stride), or size * stride where it is transposed.
      groups: G; equal to the number of channels for a depthwise convolution.
      transposed: True for the transposed convolution.
    """

    layout: str
    stride: tuple[int, ...]
    padding: str | Pairs
    dilation: tuple[int, ...]
    groups: int
    transposed: bool

    @property
    def spatial_rank(self) -> int:
        return len(self.layout) - 2

    @property
    def channels_last(self) -> bool:
        return self.layout.endswith("c")

    def spatial(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The spatial sizes of an activation."""
        return tuple(shape[1:-1] if self.channels_last else shape[2:])

    def kernel(self, weight_shape: Sequence[int]) -> tuple[int, ...]:
        """The spatial sizes of a weight."""
        return tuple(weight_shape[:-2] if self.channels_last else weight_shape[2:])

    def channel_axis(self) -> int:
        return -1 if self.channels_last else 1

    def weight_axes(self) -> tuple[int, int]:
        """The axes of the weight that hold (O or O/G, I or I/G)."""
        if self.channels_last:
            return -1, -2
        return (1, 0) if self.transposed else (0, 1)

    def whole_axis(self) -> int:
        """The axis of the weight that holds the channels of all groups; the other one holds those of one group."""
        return self.weight_axes()[1 if self.transposed else 0]

    def features(self, weight_shape: Sequence[int]) -> int:
        """O, the number of output channels."""
        size = weight_shape[self.weight_axes()[0]]
        return size * self.groups if self.transposed else size

    def channels(self, weight_shape: Sequence[int]) -> int:
        """I, the number of input channels."""
        size = weight_shape[self.weight_axes()[1]]
        return size if self.transposed else size * self.groups

    def weight_shape(self, channels: int, features: int, kernel: Sequence[int]) -> tuple[int, ...]:
        """The shape of the weight from I, O and the kernel."""
        if self.transposed:
            sizes = channels, features // self.groups
            return (*kernel, *sizes) if self.channels_last else (*sizes, *kernel)
        sizes = features, channels // self.groups
        return (*kernel, *sizes[::-1]) if self.channels_last else (*sizes, *kernel)

    def extent(self, kernel: Sequence[int]) -> tuple[int, ...]:
        """What the dilated kernel spans on each spatial axis."""
        return tuple(d * (k - 1) + 1 for k, d in zip(kernel, self.dilation, strict=True))

    def pads(self, spatial: Sequence[int], kernel: Sequence[int]) -> Pairs:
        """The padding as (low, high) per spatial axis, for x of these spatial sizes."""
        if isinstance(self.padding, tuple):
            return self.padding
        if self.padding == "valid":
            return ((0, 0),) * self.spatial_rank
        totals = (
            extent - stride if self.transposed else max((-(-size // stride) - 1) * stride + extent - size, 0)
            for size, stride, extent in zip(spatial, self.stride, self.extent(kernel), strict=True)
        )
        # A transposed kernel narrower than its stride gives a negative total: the output is extended at its end.
        return tuple((max(total // 2, 0), total - max(total // 2, 0)) for total in totals)

    def output_spatial(self, spatial: Sequence[int], kernel: Sequence[int]) -> tuple[int, ...]:
        """The spatial sizes of y."""
        axes = zip(spatial, self.stride, self.extent(kernel), self.pads(spatial, kernel), strict=True)
        if self.transposed:
            return tuple((size - 1) * stride + extent - low - high for size, stride, extent, (low, high) in axes)
        return tuple((size + low + high - extent) // stride + 1 for size, stride, extent, (low, high) in axes)

    def check(self, x_shape: Sequence[int], weight_shape: Sequence[int]) -> None:
        """Raises `UserError` where x and the weight do not fit this geometry or each other."""
        for name, shape in (("x", x_shape), ("weight", weight_shape)):
            if len(shape) != len(self.layout):
                raise UserError(
                    f"{name} of shape {tuple(shape)} has rank {len(shape)}; allowed for layout {self.layout}: "
                    f"rank {len(self.layout)}"
                )
        channels, kernel = x_shape[self.channel_axis()], self.kernel(weight_shape)
        self.check_channels(channels, self.features(weight_shape))
        if min(kernel) < 1:
            raise UserError(f"kernel {kernel} of weight {tuple(weight_shape)} is not allowed; allowed: 1 or more")
        expected = self.weight_shape(channels, self.features(weight_shape), kernel)
        if tuple(weight_shape) != expected:
            raise UserError(f"weight has shape {tuple(weight_shape)}; allowed for x {tuple(x_shape)}: {expected}")
        self.check_output(x_shape, kernel)

    def check_channels(self, channels: int, features: int) -> None:
        for name, size in (("input channels", channels), ("output channels", features)):
            if size < 1:
                raise UserError(f"{size} {name}; allowed: 1 or more")
            if size % self.groups:
                raise UserError(f"{size} {name} with groups {self.groups}; allowed: a multiple of groups")

    def check_output(self, x_shape: Sequence[int], kernel: Sequence[int]) -> None:
        output = self.output_spatial(self.spatial(x_shape), kernel)
        if min(output) < 1:
            raise UserError(
                f"kernel {tuple(kernel)} with padding {self.padding} over x {tuple(x_shape)} leaves an output of "
                f"{output}; allowed: 1 or more on each axis"
            )


def geometry(
    layout: str = "nchw",
    stride: int | Sequence[int] = 1,
    padding: Padding = "same",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    transposed: bool = False,
) -> Geometry:
    """Checks and normalises the keywords of the convolution.

    Raises:
      UserError: unknown layout; stride, dilation or groups below 1; padding that is none of "same", "valid", a number,
        a number per axis, or a (low, high) pair per axis, each 0 or more.
    """
    if layout not in LAYOUTS:
        raise unknown("layout", layout, LAYOUTS)
    rank = len(layout) - 2
    if not is_whole(groups, 1):
        raise UserError(f"groups {groups!r} is not allowed; allowed: a whole number, 1 or more")
    return Geometry(
        layout,
        _per_axis("stride", stride, rank),
        _normal_padding(padding, rank),
        _per_axis("dilation", dilation, rank),
        groups,
        bool(transposed),
    )


def kernel_of(value: Any, rank: int) -> tuple[int, ...]:
    """Returns the kernel size per spatial axis from a number or a sequence."""
    return _per_axis("kernel", value, rank)


def _per_axis(name: str, value: Any, rank: int) -> tuple[int, ...]:
    values = (value,) * rank if is_whole(value) else tuple(value) if isinstance(value, Sequence) else ()
    if len(values) != rank or not all(is_whole(v, 1) for v in values):
        raise UserError(f"{name} {value!r} is not allowed; allowed: 1 or more, one number or {rank} of them")
    return values


def _normal_padding(padding: Padding, rank: int) -> str | Pairs:
    if padding in ("same", "valid"):
        return padding
    values: tuple = ()
    if is_whole(padding):
        values = (padding,) * rank
    elif isinstance(padding, Sequence) and not isinstance(padding, str):
        values = tuple(padding)
    pairs = tuple((v, v) if is_whole(v) else tuple(v) if isinstance(v, Sequence) else () for v in values)
    if len(pairs) != rank or not all(len(pair) == 2 and all(is_whole(v, 0) for v in pair) for pair in pairs):
        raise UserError(
            f"padding {padding!r} is not allowed; allowed: 'same', 'valid', one number, {rank} numbers, "
            f"or {rank} (low, high) pairs, each 0 or more"
        )
    return pairs
