"""Programs for TPUs that are not there: what lies in HBM, what is padding, and that both agree with the HLO's text."""

import re
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.experimental import pallas as pl

import normbench
from normbench.errors import UserError
from normbench.fusion.hlo import Shape
from normbench.fusion.targets import deviceless_target, require_compilers
from normbench.fusion.tpu.chips import CHIPS
from normbench.fusion.tpu.hints import NO_REFUSALS
from normbench.schema import TPU_TARGETS
from tests.fusion.programs import array, layer_norm, programs
from tests.fusion.text_counter import Array, Count

needs_libtpu = pytest.mark.skipif(find_spec("libtpu") is None, reason="needs the extra tpu-targets")
BF16 = jnp.bfloat16
PROGRAMS = {name: (function, arguments) for name, function, arguments in programs()}
TWENTY = (
    "llama_unrolled", "llama_scanned", "llama_scanned_gradient", "vit_block", "bottleneck_step", "unet_block",
    "adamw_weights_first_donated", "embedding", "embedding_gradient", "add_rows", "add_rows_donated", "fp8_product",
    "int8_product", "either", "one_of_three", "until_small", "sharded_norm", "long_rows", "two_products",
    "table_and_zeros",
)  # fmt: skip


@needs_libtpu
@pytest.mark.parametrize("name", TWENTY)
def test_bytes_are_those_of_another_counter(name):
    function, arguments = PROGRAMS[name]
    report = normbench.explain(function, *arguments, target="v6e")
    count = Count(report.hlo)
    read = (len(report.launches), report.executed_launches, report.bytes, report.minimum_bytes)
    assert read == (len(count.launches), count.executed, count.bytes, count.minimum)


def batch_norm(x, gamma, beta):
    wide = x.astype(jnp.float32)
    mean, variance = wide.mean((0, 2, 3), keepdims=True), wide.var((0, 2, 3), keepdims=True)
    y = (wide - mean) * jax.lax.rsqrt(variance + 1e-5) * gamma[:, None, None] + beta[:, None, None]
    return y.astype(x.dtype)


@needs_libtpu
@pytest.mark.parametrize("target", ["v6e", "tpu7x"])
def test_64_channels_fill_half_of_128_lanes(target):
    """ResNet-50's first stage: XLA puts the channels last, and tiles have 128 of them."""
    arguments = (array((32, 64, 56, 56), BF16), array((64,)), array((64,)))
    report = normbench.explain(batch_norm, *arguments, target=target)
    x_bytes = 32 * 64 * 56 * 56 * 2
    large = report.launches[report.launches.read_bytes + report.launches.write_bytes > x_bytes]
    moved = large.read_bytes + large.write_bytes
    assert len(large) >= 3
    assert set(moved % (2 * x_bytes) < 10_000) == {True}
    assert (large.padding_bytes / moved).round(2).eq(0.5).all()
    assert any(hint.startswith("padding: ") and "50%" in hint for hint in report.hints)
    assert any(hint.startswith("read again: ") for hint in report.hints)
    assert NO_REFUSALS in report.notes
    assert not report.refusals


@needs_libtpu
def test_a_copy_into_vmem_is_one_read_of_hbm_and_later_reads_are_none():
    rows = 8192
    report = normbench.explain(layer_norm, array((rows, 4096), BF16), array((4096,)), array((4096,)), target="v6e")
    launches = report.launches
    prefetched = launches[launches.kind == "prefetch"]
    x_bytes = rows * 4096 * 2
    assert prefetched.read_bytes.max() == x_bytes
    assert (prefetched.write_bytes == 0).all()
    readers = launches[launches.read_bytes >= x_bytes]
    assert len(readers) == 2, "the prefetch, and the statistics that start before it has ended"
    assert report.bytes < 3.01 * x_bytes < report.xla_bytes, "XLA's own count takes VMEM for memory"
    assert report.predicted_s > report.bytes_s > 0
    assert report.predicted_range_s[0] < report.predicted_s < report.predicted_range_s[1]
    told = dict(zip(launches.name, launches.estimated_cycles, strict=True))
    for line in report.hlo.splitlines():
        found = re.match(r"  (?:ROOT )?%(\S+) = .*\"estimated_cycles\":\"(\d+)\"", line)
        if found and found[1] in told:
            assert told[found[1]] == int(found[2])


@needs_libtpu
@pytest.mark.parametrize("target", TPU_TARGETS)
def test_streaming_takes_what_the_memory_takes(target):
    """The rate of the compiler's cycles is the one at which this holds: see `normbench.predict.tpu`."""
    report = normbench.explain(lambda x: x + 1, array((65536, 4096), BF16), target=target)
    attained = {"v4": 0.80, "v5e": 0.90, "v5p": 0.85}.get(target, 1.0)
    assert len(report.launches) == 1
    assert report.predicted_s == pytest.approx(report.bytes_s / attained, rel=0.02)


def double(x_ref, y_ref):
    y_ref[...] = 2 * x_ref[...]


@needs_libtpu
def test_a_kernel_of_ones_own_reads_and_writes_hbm_once_under_its_name():
    def doubled(x):
        block = pl.BlockSpec((256, 512), lambda row: (row, 0))
        call = pl.pallas_call(double, jax.ShapeDtypeStruct(x.shape, x.dtype), name="twice", grid=(8,),
                              in_specs=[block], out_specs=block)  # fmt: skip
        return call(x)

    (launch,) = normbench.explain(doubled, array((2048, 512), BF16), target="v6e").rows
    assert (launch["kind"], launch["ops"]) == ("pallas", "twice")
    assert launch["read_bytes"] == launch["write_bytes"] == 2048 * 512 * 2
    assert launch["predicted_from"] == "bytes"


@needs_libtpu
def test_a_mesh_of_four_tells_what_each_device_sends():
    mesh = normbench.mesh((2, 2), ("data", "model"), target="v6e")
    spec = jax.sharding.PartitionSpec("data", "model")
    x = jax.ShapeDtypeStruct((1024, 4096), BF16, sharding=jax.sharding.NamedSharding(mesh, spec))
    report = normbench.explain(layer_norm, x, array((4096,)), array((4096,)), target="v6e")
    assert report.devices == 4
    assert len(report.collectives) >= 1
    assert report.collectives.wire_bytes.gt(0).all()
    assert "on v6e, one of 4 devices (data 2, model 2)" in str(report)


def test_tiles_fill_up_the_minor_dimensions_of_the_layout():
    shape = Shape("bf16", 16, (32, 64, 56, 56), (1, 3, 2, 0), tiles=((8, 128), (2, 1)))
    assert (shape.size_bytes, shape.memory_bytes) == (12_845_056, 25_690_112)
    assert Shape("f32", 32, (64,), (0,), tiles=((128,),)).memory_bytes == 512
    assert Shape("f32", 32, (), (), tiles=((128,),)).memory_bytes == 4
    assert Shape("f32", 32, (100,), (0,), tiles=((8, 128),)).memory_bytes == 8 * 128 * 4
    assert Shape("f32", 32, (64,), (0,), tiles=((128,),), memory_space=1).memory_bytes == 0


@given(st.data())
def test_padding_is_that_of_another_counter(data):
    sizes = tuple(data.draw(st.lists(st.integers(1, 300), min_size=1, max_size=4)))
    order = tuple(data.draw(st.permutations(range(len(sizes)))))
    tile = data.draw(st.sampled_from([(), (128,), (1024,), (8, 128), (16, 128), (1, 128), (2, 128)]))
    space = data.draw(st.sampled_from([0, 0, 0, 1, 2, 5]))
    shape = Shape("bf16", 16, sizes, order, memory_space=space, tiles=(tile, (2, 1)) if tile else ())
    assert shape.memory_bytes == Array("bf16", sizes, order, tile, space).moved()
    assert shape.memory_bytes >= shape.size_bytes or space


@pytest.mark.parametrize(
    ("target", "devices", "chips"),
    [("v6e", 1, (2, 2)), ("v6e", 5, (2, 4)), ("v6e", 16, (4, 4)), ("v5p", 4, (2, 2, 1)), ("v5p", 8, (2, 2, 2)),
     ("tpu7x", 8, (2, 2, 1)), ("tpu7x", 9, (2, 2, 2)), ("v4", 64, (4, 4, 4))],
)  # fmt: skip
def test_the_smallest_slice_with_so_many_devices(target, devices, chips):
    assert CHIPS[target].slice_of(devices) == chips


@pytest.mark.parametrize("target", TPU_TARGETS)
def test_targets_state_plausible_hardware(target):
    facts = deviceless_target(target)
    assert 5e11 < facts.memory_bandwidth < 1e13
    assert 15e9 < facts.memory_bytes < 2e11
    assert 30e6 < facts.l2_bytes < 2e8


def test_without_the_compiler_one_line_says_which_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"normbench\[tpu-targets\]"):
        require_compilers("v6e")
