"""The readers of XLA's files, on small inputs of known content."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from normbench.errors import UserError
from normbench.fusion import ptx, refusals, wire
from normbench.fusion.targets import deviceless_target
from normbench.fusion.traffic import elements_within
from normbench.schema import DEVICELESS_TARGETS, TPU_TARGETS


def encode_varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def encode(fields):
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += encode_varint(number << 3) + encode_varint(value)
        else:
            out += encode_varint(number << 3 | 2) + encode_varint(len(value)) + value
    return out


FIELD = st.tuples(st.integers(1, 5000), st.one_of(st.integers(0, 2**64 - 1), st.binary(max_size=40)))


@given(st.lists(FIELD))
def test_what_is_encoded_is_read_back(fields):
    assert list(wire.fields(encode(fields))) == fields


@given(st.lists(st.integers(0, 2**63), max_size=20))
def test_packed_and_repeated_numbers_read_the_same(numbers):
    packed = [b"".join(encode_varint(number) for number in numbers)]
    assert wire.integers(packed) == wire.integers(list(numbers)) == tuple(numbers)


@pytest.mark.parametrize("data", [b"\x0a\x05ab", b"\x08", b"\x08\xff", b"\x0b", b"\x0f"])
def test_what_is_no_message_is_refused(data):
    with pytest.raises(wire.WireError):
        list(wire.fields(data))


PTX = """
.visible .entry wide(
)
{
	ld.param.b64 	%rd1, [wide_param_0];
	ld.global.nc.v4.b32 	{%r1, %r2, %r3, %r4}, [%rd2];
	ld.global.nc.b16 	%rs1, [%rd3];
	st.global.v2.b32 	[%rd4], {%r1, %r2};
	st.shared.v4.b32 	[%r9], {%r1, %r2, %r3, %r4};
}
.visible .entry narrow(
)
{
	ld.global.L1::evict_last.b16 	%rs1, [%rd3];
	st.global.b8 	[%rd4], %rs1;
}
.visible .entry bulk(
)
{
	cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r1], [%rd1, {%r2, %r3}], [%r4];
	cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%rd1, {%r2, %r3}], [%r1];
}
.visible .entry asynchronous(
)
{
	cp.async.cg.shared.global [ %r1 + 0 ], [ %rd1 + 0 ], 0x10, %r2;
	cp.async.ca.shared.global [%r1], [%rd1], 8;
}
"""


def test_widest_accesses_are_found_by_kernel():
    widths = ptx.access_widths(PTX)
    assert widths["wide"] == (16, 8)
    assert widths["narrow"] == (2, 1)
    assert widths["bulk"] == (16, 16)
    assert widths["asynchronous"] == (16, None)


def test_no_kernels_no_widths():
    assert ptx.access_widths("") == {}


def test_thunks_give_grid_block_and_shared_memory():
    sequence = (
        "001: kCustomKernel [source       | next=002 (1)] loop_fusion_1 grid: [64, 2, 1] threads: [128, 1, 1]"
        "  shared_memory: 4096 bytes\n"
        "002: kConvolution  [prev=001 (1) | next=004 (1)] kConvolution\n"
    )
    assert ptx.thunks(sequence) == {1: ("loop_fusion_1", ptx.Kernel(grid="64x2", block="128", shared_bytes=4096))}


def test_an_unknown_reason_is_passed_on_in_the_compilers_words():
    assert refusals.plain("some new reason\nwith a second line") == "some new reason"
    assert "only one" in refusals.plain("both the producer and the consumer contain a reduce")


def test_a_refusal_that_was_overcome_is_none():
    def step(kind, *values):
        fields = [(i + 1, v.encode() if isinstance(v, str) else v) for i, v in enumerate(values)]
        return (1, encode([(kind, encode(fields))]))

    refused = step(5, "a.0", "both the producer and the consumer contain a reduce")
    fused = step(4, "fusion", "a.0", "b.0")
    assert list(refusals._read(encode([refused])).reasons) == ["a.0"]
    assert refusals._read(encode([refused, fused])).reasons == {}


def test_the_cost_models_veto_is_a_refusal():
    fields = encode([(1, b"rsqrt.0"), (2, b"mul.0")])
    fields += encode_varint(3 << 3 | 5) + struct.pack("<f", 40.0) + encode_varint(4 << 3 | 5) + struct.pack("<f", 31.0)
    log = encode([(1, encode([(6, fields)]))])
    assert refusals._read(log).reasons == {"rsqrt.0": "the compiler expects no gain: 40.0 us fused, 31.0 us apart"}


@pytest.mark.parametrize("name", [name for name in DEVICELESS_TARGETS if name not in TPU_TARGETS])
def test_targets_state_plausible_hardware(name):
    target = deviceless_target(name)
    assert target.memory_bandwidth > 1e12
    assert target.l2_bytes > 30e6
    assert 80 < target.cores < 200


def test_an_unknown_target_is_an_error():
    with pytest.raises(UserError, match="h200"):
        deviceless_target("h300")


intervals = st.tuples(st.integers(0, 7), st.integers(0, 7)).map(sorted)


@given(st.integers(1, 3).flatmap(lambda ndim: st.lists(st.tuples(*[intervals] * ndim), max_size=6)))
def test_elements_that_lie_in_several_boxes_count_once(boxes):
    marked = np.zeros((8,) * len(boxes[0]) if boxes else (), bool)
    for box in boxes:
        marked[tuple(slice(first, end) for first, end in box)] = True
    assert elements_within(boxes) == marked.sum()
