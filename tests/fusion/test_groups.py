"""The devices of a collective, in each form in which XLA writes them down, and the axes of a mesh that they follow."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from normbench.fusion.hlo import ATTRIBUTES, Instruction, Shape
from normbench.fusion.program.groups import device_groups
from normbench.fusion.program.partition import Partition

SIZES = st.lists(st.integers(1, 4), min_size=1, max_size=4)


def varint(number):
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def field(number, value):
    """One field of a protobuf: a number, or bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def packed(number, values):
    return field(number, b"".join(varint(value) for value in values))


def collective(attribute, data):
    plain = {name: 0 for name in ("id", "parameter_number", "tuple_index")}
    words = {name: "" for name in ("name", "op_name", "fusion_kind", "custom_call_target", "backend_config")}
    shape = Shape("f32", 32, (), ())
    return Instruction(opcode="all-reduce", shape=shape, operands=(), called=(), dimensions=(), **plain, **words,
                       attributes={ATTRIBUTES[attribute]: data})  # fmt: skip


def mesh_of(sizes):
    return b"".join(field(1, field(1, f"axis_{n}".encode()) + field(2, size)) for n, size in enumerate(sizes))


@given(st.lists(st.lists(st.integers(0, 300), min_size=2, max_size=2), min_size=1, max_size=5))
def test_a_list_of_groups(groups):
    data = b"".join(field(1, packed(1, group)) for group in groups)
    assert device_groups(collective("device list", data)) == tuple(map(tuple, groups))


@given(st.data(), SIZES)
def test_numbers_in_a_shape_with_its_axes_permuted(data, sizes):
    order = data.draw(st.permutations(range(len(sizes))))
    size = data.draw(st.sampled_from([n for n in range(1, math.prod(sizes) + 1) if math.prod(sizes) % n == 0]))
    iota = field(1, math.prod(sizes) // size) + field(2, size) + packed(3, sizes) + packed(4, order)
    wanted = np.arange(math.prod(sizes)).reshape(sizes).transpose(order).reshape(-1, size)
    assert device_groups(collective("device list", field(2, iota))) == tuple(map(tuple, wanted.tolist()))


@given(st.data(), SIZES)
def test_axes_of_a_mesh_of_devices_in_any_order(data, sizes):
    chosen = data.draw(st.lists(st.sampled_from(range(len(sizes))), unique=True))
    order = data.draw(st.permutations(range(len(sizes))))
    permuted = [sizes[place] for place in order]
    tile = packed(1, sizes) + packed(2, order)  # axis n of the mesh is axis order[n] of the devices
    axes = b"".join(field(2, field(1, place)) for place in chosen)
    found = device_groups(collective("device mesh", field(1, mesh_of(permuted) + field(3, tile)) + axes))
    devices = np.arange(math.prod(sizes)).reshape(sizes).transpose(order)
    for group in found:
        places = np.argwhere(np.isin(devices, group))
        assert len(group) == math.prod(permuted[axis] for axis in chosen)
        for axis in range(len(permuted)):
            assert len(set(places[:, axis])) == (permuted[axis] if axis in chosen else 1)
    assert sorted(device for group in found for device in group) == list(range(math.prod(sizes)))


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
def test_a_part_of_an_axis(before, size, after, other):
    part = field(1, before) + field(2, size)
    data = field(1, mesh_of((before * size * after, other))) + field(2, field(1, 0) + field(2, part))
    wanted = np.arange(before * size * after * other).reshape(before, size, after, other)
    wanted = wanted.transpose(0, 2, 3, 1).reshape(-1, size)
    assert device_groups(collective("device mesh", data)) == tuple(map(tuple, wanted.tolist()))


@given(st.data(), st.lists(st.integers(2, 4), min_size=1, max_size=3))
def test_the_axes_that_groups_follow(data, sizes):
    names = [f"axis {n}" for n in range(len(sizes))]
    order = data.draw(st.permutations(range(math.prod(sizes))))
    chosen = data.draw(st.sets(st.sampled_from(range(len(sizes)))))
    partition = Partition(math.prod(sizes), tuple(zip(names, sizes, strict=True)), tuple(order))
    places = np.asarray(order).reshape(sizes)
    axes = [axis for axis in range(len(sizes)) if axis not in chosen] + sorted(chosen)
    groups = places.transpose(axes).reshape(-1, math.prod(sizes[axis] for axis in chosen)).tolist()
    assert partition.axes_of(groups) == tuple(names[axis] for axis in sorted(chosen))
    if len(groups) > 1 and len(groups[0]) > 1:
        groups[0][0], groups[1][0] = groups[1][0], groups[0][0]
        found = partition.axes_of(groups)
        assert found is None or len(sizes) > 1
