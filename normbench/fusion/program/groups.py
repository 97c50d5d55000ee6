"""Which devices take part in a collective, in the three forms in which XLA writes them down.

| form | message                    | groups                                                              |
|------|----------------------------|---------------------------------------------------------------------|
| list | ReplicaGroup               | each by its devices                                                 |
| iota | IotaReplicaGroupListProto  | of 0, 1, ... in a shape, its axes permuted, cut in rows;            |
|      |                            | within the list or, on a TPU, in its place                          |
| mesh | MeshAxesReplicaGroupList   | along axes, or parts of axes, of a mesh                             |
"""

import math
from collections.abc import Iterator

import numpy as np

from normbench.fusion.hlo import ATTRIBUTES, Instruction
from normbench.fusion.wire import integers, message, number

Groups = tuple[tuple[int, ...], ...]


def device_groups(instruction: Instruction) -> Groups:
    """The groups of a collective, each by the places of its devices; empty where they are all devices, or not told."""
    attributes = instruction.attributes
    mesh, alone, devices, last = (
        attributes.get(ATTRIBUTES[name]) for name in ("device mesh", "device iota", "device list", "replica groups")
    )
    if isinstance(mesh, bytes):
        return _along_axes(mesh)
    if isinstance(alone, bytes):
        return _iota(message(alone))
    if isinstance(devices, bytes):
        fields = message(devices)
        listed = tuple(integers(group.get(1, [])) for group in _messages(fields.get(1)))
        iota = next(_messages(fields.get(2)), None)
        return listed if iota is None else _iota(iota)
    return (integers(message(last).get(1, [])),) if isinstance(last, bytes) and last else ()


def _iota(fields: dict[int, list[int | bytes]]) -> Groups:
    count, size = number(fields.get(1)), number(fields.get(2))
    shape, order = integers(fields.get(3, [])), integers(fields.get(4, []))
    numbers = np.arange(count * size).reshape(shape or (count, size))
    return _rows(numbers.transpose(order or range(numbers.ndim)), size)


def _along_axes(data: bytes) -> Groups:
    """An axis of which only a part is meant, `size` behind the first `pre_size`, is cut into three."""
    fields = message(data)
    mesh = next(_messages(fields.get(1)), {})
    cuts: list[list[int]] = [[number(axis.get(2), 1)] for axis in _messages(mesh.get(1))]
    chosen: list[tuple[int, int]] = []
    for reference in _messages(fields.get(2)):
        place = number(reference.get(1))
        part = next(_messages(reference.get(2)), None)
        if part is not None:
            before, size = number(part.get(1), 1), number(part.get(2), 1)
            cuts[place] = [before, size, math.prod(cuts[place]) // (before * size)]
        chosen.append((place, 0 if part is None else 1))
    shape = [size for cut in cuts for size in cut]
    start = [sum(len(cut) for cut in cuts[:place]) for place in range(len(cuts))]
    inner = [start[place] + piece for place, piece in chosen]
    outer = [axis for axis in range(len(shape)) if axis not in inner]
    numbers = _devices(mesh, math.prod(shape)).reshape(shape)
    return _rows(numbers.transpose(*outer, *inner), math.prod(shape[axis] for axis in inner))


def _devices(mesh: dict[int, list[int | bytes]], count: int) -> np.ndarray:
    """The devices of a mesh in its order: counting, as a list, or the numbers in a shape with its axes permuted."""
    listed, iota = integers(mesh.get(2, [])), next(_messages(mesh.get(3)), None)
    if iota is not None:
        numbers = np.arange(count).reshape(integers(iota.get(1, [])))
        return numbers.transpose(integers(iota.get(2, [])) or range(numbers.ndim))
    return np.asarray(listed or range(count))


def _rows(numbers: np.ndarray, size: int) -> Groups:
    return tuple(tuple(int(device) for device in row) for row in numbers.reshape(-1, size))


def _messages(values: list[int | bytes] | None) -> Iterator[dict[int, list[int | bytes]]]:
    for value in values or ():
        if isinstance(value, bytes):
            yield message(value)
