"""Which normalization it is: from the shape and axes that were written, and how far the scale reaches."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from normbench.norms.recognise import Match
from normbench.norms.values import Values


@dataclass(frozen=True)
class Kind:
    """What is normalised over what.

    Attributes:
      name: "batch", "layer", "rms", "group" or "instance".
      shape: of x.
      axes: of x over which the statistics are taken; those of the batch for given ones. Of a group norm the spatial
        axes and that of the channels.
      channel_axis: of x, for batch, group and instance; None for layer and RMS.
      groups: of a group norm.
    """

    name: str
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    channel_axis: int | None = None
    groups: int | None = None


def kind_of(values: Values, match: Match) -> Kind:
    """The kind of a match; see `Kind`."""
    if match.statistic.x is None:
        return _given(values, match)
    shape = values[match.statistic.reduced].shape.dimensions
    axes = tuple(axis for axis in match.statistic.axes if shape[axis] > 1) or match.statistic.axes
    written = values[match.statistic.x].shape.dimensions
    grouped = _grouped(values, match, written, shape, axes)
    if grouped is not None:
        return grouped
    moved = _moved(shape, written, match.statistic.axes)
    return _ungrouped(values, match, *((written, moved) if moved is not None else (shape, axes)))


def _moved(shape: Sequence[int], written: Sequence[int], axes: Sequence[int]) -> tuple[int, ...] | None:
    """The reduced axes of a shape in the one that was written, where each of those is reduced as a whole or not."""
    if math.prod(shape) != math.prod(written):
        return None
    found: list[int] = []
    for old, new in _blocks(written, shape):
        sized = {axis in axes for axis in new if shape[axis] > 1} or {bool(set(new) & set(axes))}
        if len(sized) > 1:
            return None
        if sized == {True}:
            found += old
    return tuple(found)


def _given(values: Values, match: Match) -> Kind:
    """The axis of the channels is the one along which the root is broadcast to x."""
    shape = values[match.applied].shape.dimensions
    channel = _broadcast_axes(values, match.root, match.applied)
    axis = channel[-1] if channel else len(shape) - 1
    return Kind("batch", shape, tuple(a for a in range(len(shape)) if a != axis), axis)


def _broadcast_axes(values: Values, start: int, end: int) -> tuple[int, ...]:
    """The axes of the operand of `end` along which the array `start`, which reaches it, varies."""
    value = next(
        (operand for operand in values[end].operands if _reaches(values, operand, start)), values[end].operands[-1]
    )
    return varying_axes(values, value)


def _reaches(values: Values, value: int, start: int) -> bool:
    todo, seen = [value], set[int]()
    while todo and len(seen) < 40:
        one = values[todo.pop()]
        if one.id == start:
            return True
        if one.id not in seen and one.elements <= values[value].elements and one.opcode != "reduce":
            seen.add(one.id)
            todo += one.operands
    return False


def varying_axes(values: Values, value: int) -> tuple[int, ...]:
    """Axes of a broadcast value along which it varies."""
    one = values[value]
    if one.opcode == "convert":
        return varying_axes(values, one.operands[0])
    if one.opcode == "broadcast":
        inner = varying_axes(values, one.operands[0])
        return tuple(one.instruction.dimensions[axis] for axis in inner)
    if one.opcode == "reshape":
        inner = varying_axes(values, one.operands[0])
        return _reshaped(values[one.operands[0]].shape.dimensions, one.shape.dimensions, inner)
    return tuple(axis for axis, size in enumerate(one.shape.dimensions) if size > 1)


def _reshaped(old: Sequence[int], new: Sequence[int], axes: Sequence[int]) -> tuple[int, ...]:
    return tuple(
        after for before, after_axes in _blocks(old, new) for after in after_axes
        if any(axis in before for axis in axes) and new[after] > 1
    )  # fmt: skip


def _blocks(old: Sequence[int], new: Sequence[int]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Axes of two shapes of as many elements that belong together: [8, 12] and [2, 4, 12] give (0; 0, 1), (1; 2)."""
    found, i, j = [], 0, 0
    while i < len(old) or j < len(new):
        left, right, start_i, start_j = 1, 1, i, j
        if i < len(old):
            left, i = old[i], i + 1
        if j < len(new):
            right, j = new[j], j + 1
        while left != right:
            if left < right and i < len(old):
                left, i = left * old[i], i + 1
            elif j < len(new):
                right, j = right * new[j], j + 1
            else:
                break
        found.append((tuple(range(start_i, i)), tuple(range(start_j, j))))
    return found


def _grouped(
    values: Values, match: Match, written: Sequence[int], shape: Sequence[int], axes: Sequence[int]
) -> Kind | None:
    """A group norm splits the channels of x and reduces one part of them with the spatial axes."""
    if math.prod(written) != math.prod(shape) or tuple(written) == tuple(shape):
        return None
    blocks = _blocks(written, shape)
    for old, new in blocks:
        groups = math.prod(shape[axis] for axis in new if axis not in axes)
        inside = math.prod(shape[axis] for axis in new if axis in axes)
        if groups == 1 or inside == 1 or len(new) == 1:
            continue
        spatial = [axis for axis in axes if axis not in new]
        channel = next((axis for axis in old if written[axis] > 1), old[0])
        if not spatial and len(old) == 1 and not _scaled_along(values, match, written[channel], inside):
            continue  # heads of an attention, each normalised alone
        if old[0] == 0 and len(written) > 1:
            continue
        others = tuple(a for o, n in blocks for a in o if any(axis in axes for axis in n))
        if written[channel] == groups:
            return Kind("instance", tuple(written), tuple(a for a in others if a != channel), channel)
        return Kind("group", tuple(written), others, channel, groups)
    return None


def _scaled_along(values: Values, match: Match, channels: int, inside: int) -> bool:
    """Whether the scale, or else the shift, has an entry for each channel, and not only for those in a group."""
    sizes = [_size(values, one) for one in (match.scale, match.shift) if one is not None]
    return bool(sizes) and max(sizes) == channels > inside


def _size(values: Values, value: int) -> int:
    shape = values[value].shape.dimensions
    return math.prod(shape[axis] for axis in varying_axes(values, value))


def _ungrouped(values: Values, match: Match, shape: Sequence[int], axes: Sequence[int]) -> Kind:
    rank, kept = len(shape), [axis for axis in range(len(shape)) if axis not in axes]
    whole, found = tuple(shape), tuple(sorted(axes))
    if not match.statistic.centred:
        return Kind("rms", whole, found)
    if 0 in axes and kept and rank > 1:
        return Kind("batch", whole, found, kept[-1])
    if kept and rank > 2 and (channel := _instance_channel(values, match, whole, found, kept)) is not None:
        return Kind("instance", whole, found, channel)
    return Kind("layer", whole, found)


def _instance_channel(
    values: Values, match: Match, shape: tuple[int, ...], axes: tuple[int, ...], kept: Sequence[int]
) -> int | None:
    """The axis of the channels where each of them is normalised alone over space; None for a layer norm.

    The scale tells: of an instance norm it varies along an axis that is kept, of a layer norm along those reduced.
    Without one, all axes but the batch and one are taken for space if there are two of them, or one in the middle.
    """
    for parameter in (match.scale, match.shift):
        if parameter is not None and values[parameter].shape.dimensions and _is_of_x(values, match, parameter):
            reduced = values[match.statistic.reduced].shape.dimensions
            along = _reshaped(reduced, shape, varying_axes(values, parameter))
            return along[-1] if along and not set(along) & set(axes) else None
    if len(kept) != 2 or (len(axes) == 1 and axes[0] == len(shape) - 1) or (len(shape) > 3 and len(axes) < 2):
        return None
    return kept[-1]


def _is_of_x(values: Values, match: Match, parameter: int) -> bool:
    return values[parameter].shape.dimensions == values[match.statistic.reduced].shape.dimensions
