"""The Pallas Triton kernels of group norm and instance norm, interpreted, against the float64 reference."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from normbench import kernels
from normbench.errors import UserError
from normbench.kernels.group_norm.pallas_triton import pallas_triton
from normbench.kernels.pallas.hardware import MULTIPROCESSORS
from normbench.kernels.pallas.triton import groups_config
from normbench.kernels.pallas.triton.channel_tiles import View
from normbench.kernels.pallas.triton.groups_config import WIDEST, backward_config, forward_config
from normbench.kernels.problem import Problem
from normbench.study.check.accuracy import compare
from tests.kernels.norm_cases import check

CASES = [
    ((4, 12), "nc", 3, "float64", "alone"),
    ((2, 6, 4, 4), "nchw", 3, "float32", "silu"),
    ((1, 10, 7, 7), "nchw", 2, "bfloat16", "cast"),
    ((2, 7, 5, 12), "nhwc", 3, "float32", "relu"),
    ((1, 127, 40), "nlc", 4, "float16", "gelu"),
    ((1, 6, 129, 129), "nchw", 1, "float32", "alone"),
    ((2, 7, 5, 12), "nhwc", 3, "bfloat16", "residual"),
    ((1, 6, 129, 129), "nchw", 1, "float16", "residual"),
    ((1, 16385, 4), "nlc", 2, "bfloat16", "silu"),
    ((1, 16385, 4), "nlc", 2, "float32", "residual"),
]
"""Groups in registers and streamed (16641 and 16385 positions), several to a tile, in several tiles, whole, ragged."""


@pytest.mark.parametrize(("shape", "layout", "groups", "dtype", "context"), CASES)
def test_group_norm(shape, layout, groups, dtype, context):
    options = (("groups", groups),)
    check(
        Problem("group_norm", shape, layout, dtype, "float32", "forward_backward", context, options=options),
        "pallas_triton",
    )


@pytest.mark.parametrize("activation", ["silu", "gelu"])
@pytest.mark.parametrize("residual", [False, True])
def test_of_the_most_elements_a_tile_is_read_again_for_an_exponential(activation, residual):
    """80 elements of a thread, the last tile of which ends within it."""
    shape, random = (1, 20, 61, 67), np.random.default_rng(3)
    config = forward_config(View(1, 20, 61 * 67, False), 2, "bfloat16")
    assert config.again("bfloat16", activation) == (1, 2 * (61 * 67 - 2048))
    assert all(config.again(*others) == (0, 0) for others in (("bfloat16", "relu"), ("float32", activation)))
    x, side = (jnp.asarray(random.normal(size=shape), jnp.bfloat16) for _ in range(2))
    vector = jnp.linspace(0.5, 2, 20, dtype=jnp.float32)
    keywords = {"groups": 2, "activation": activation}
    sides = {"residual": side} if residual else {}
    found = jax.tree.leaves(pallas_triton(x, vector, vector, **keywords, **sides))[0]
    expected = kernels.get("group_norm", "two_pass")(x + side if residual else x, vector, vector, **keywords)
    np.testing.assert_allclose(found.astype("float32"), expected.astype("float32"), rtol=0.01, atol=0.01)


@pytest.mark.parametrize(("shape", "layout"), [((2, 5, 9, 16), "nhwc"), ((2, 5, 7, 7), "nchw"), ((1, 131, 3), "nlc")])
def test_instance_norm_with_parameters_in_another_dtype(shape, layout):
    problem = Problem("instance_norm", shape, layout, "float32", "bfloat16", "forward_backward", "silu")
    check(problem, "pallas_triton")


@pytest.mark.parametrize("last", [False, True])
def test_partial_sums_of_several_programs(last):
    shape = (4, 16, 16, 16)
    config = backward_config(View(4, 16, 256, last), 4, "float32", 4)
    assert config.splits > 1
    layout = "nhwc" if last else "nchw"
    check(Problem("group_norm", shape, layout, pass_="backward", options=(("groups", 4),)), "pallas_triton")


@pytest.mark.parametrize(("images", "last"), [(7, False), (7, True), (11, False)])
def test_programs_that_no_number_of_images_is_shared_out_evenly_among(images, last):
    """The last program has fewer images than the others."""
    shape = (images, 4, 2, 16) if last else (images, 16, 4, 2)
    config = backward_config(View(images, 16, 8, last), 4, "float32", 4)
    assert 1 < config.splits < images < config.splits * config.images_each
    problem = Problem("group_norm", shape, "nhwc" if last else "nchw", pass_="backward", options=(("groups", 4),))
    check(problem, "pallas_triton")


@pytest.mark.parametrize("last", [False, True])
def test_any_number_of_images_has_about_as_many_programs_as_an_even_one(last):
    for images in range(1, 300):
        config = backward_config(View(images, 64, 784, last), 32, "bfloat16", 4)
        assert config.resident
        even = 1 << images.bit_length() - 1
        assert 2 * config.splits >= backward_config(View(even, 64, 784, last), 32, "bfloat16", 4).splits
        assert (config.splits - 1) * config.images_each < images <= config.splits * config.images_each


@pytest.mark.parametrize(
    ("shape", "layout", "groups", "dtype"),
    [
        ((2, 100, 130, 16), "nhwc", 16, "float32"),
        ((1, 61, 67, 40), "nhwc", 4, "bfloat16"),
        ((1, 20, 131, 128), "nchw", 2, "bfloat16"),
        ((2, 6, 300, 101), "nchw", 2, "float32"),
    ],
)
def test_groups_that_do_not_fit_are_shared_out_among_programs(shape, layout, groups, dtype):
    """Shares that end within a tile, tiles with lanes that have no channel, and the statistics that backward needs."""
    last = layout == "nhwc"
    channels = shape[3 if last else 1]
    view = View(shape[0], channels, math.prod(shape) // shape[0] // channels, last)
    config = forward_config(view, groups, dtype)
    assert not config.resident
    assert config.shares > 1
    assert (
        config.shares * config.steps * config.chunk >= view.spatial > (config.shares - 1) * config.steps * config.chunk
    )
    options = (("groups", groups),)
    check(Problem("group_norm", shape, layout, dtype, "float32", "forward_backward", options=options), "pallas_triton")


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_what_shares_leave_is_read_in_parts_where_registers_do_not_hold_it(layout, groups, monkeypatch):
    """Of one group it is a value for each share; of channels, and of several groups, one for each lane."""
    monkeypatch.setattr(groups_config, "PARTIALS", 4)
    shape = (2, 12, 131, 101) if layout == "nchw" else (2, 131, 101, 12)
    view = View(2, 12, 131 * 101, layout == "nhwc")
    forward, backward = forward_config(view, groups, "float32"), backward_config(view, groups, "float32", 4)
    assert forward.is_of_one(forward.each) == (groups == 1 or layout == "nchw")
    assert backward.partial_blocks(1)[0] > 1
    assert forward.partial_blocks(forward.each)[0] > 1
    options = (("groups", groups),)
    check(
        Problem("group_norm", shape, layout, "float32", "float32", "forward_backward", options=options), "pallas_triton"
    )


@pytest.mark.parametrize("groups", [1, 4])
def test_few_images_of_few_groups_are_shared_out_among_half_of_the_multiprocessors(groups):
    for last in (False, True):
        view = View(1, 512, 8192, last)
        for config in (forward_config(view, groups, "bfloat16"), backward_config(view, groups, "bfloat16", 4)):
            assert config.blocks * config.shares >= MULTIPROCESSORS // 2


@pytest.mark.parametrize(("shape", "last"), [((1, 4, 64), False), ((1, 65536, 4), True)])
def test_hard_data(shape, last):
    """A mean of 1000 and a deviation of 0.01: the statistics are as good as those of the textbook formula."""
    view = View(1, 4, shape[1 if last else 2], last)
    assert forward_config(view, 2, "float32").resident is not last
    random = np.random.default_rng(0)
    x = jnp.asarray(1e3 + 1e-2 * random.normal(size=shape), jnp.float32)
    arrays = (x, jnp.asarray(random.normal(size=4), jnp.float32), jnp.zeros(4, jnp.float32))
    keywords = {"epsilon": 1e-9, "groups": 2, "channel_axis": -1 if last else 1}
    exact = kernels.operator("group_norm").reference(*map(np.asarray, arrays), **keywords)
    errors = [
        compare(kernels.get("group_norm", name)(*arrays, **keywords), exact).max_abs
        for name in ("two_pass", "pallas_triton")
    ]
    assert errors[1] <= 4 * errors[0]


def test_vmap_and_an_empty_batch():
    x = jnp.asarray(np.random.default_rng(2).normal(size=(2, 1, 4, 9)), jnp.float32)
    vector = jnp.linspace(0.5, 2, 4, dtype=jnp.float32)

    def loss(x):
        return jnp.sum(jnp.sin(pallas_triton(x, vector, vector, groups=2)))

    expected = [jax.grad(loss)(one) for one in x]
    np.testing.assert_allclose(jax.vmap(jax.grad(loss))(x), expected, rtol=1e-5, atol=1e-5)
    empty = Problem("group_norm", (0, 8, 3, 3), pass_="forward_backward", options=(("groups", 2),))
    check(empty, "pallas_triton")


def test_what_is_refused_has_a_reason():
    vector = jnp.ones(2 * WIDEST)
    with pytest.raises(UserError, match=f"more than {WIDEST} channels in a group"):
        pallas_triton(jnp.ones((1, 2 * WIDEST)), vector, vector, groups=1)
    variant = kernels.get("group_norm", "pallas_triton")
    assert "interpret" in variant.supports(Problem("group_norm", (2, 32, 4, 4)), "cpu")
    assert variant.supports(Problem("group_norm", (2, 32, 4, 4)), "h200") is None
    assert "32-bit" in variant.supports(Problem("group_norm", (2**16, 32, 64, 64)), "h200")


def test_few_groups_that_do_not_fit_keep_multiprocessors_busy():
    """Of one image and few channels each program has a share of the positions, so that none is refused for it."""
    few = Problem("instance_norm", (1, 512, 512, 8), "nhwc")
    assert kernels.get("instance_norm", "pallas_triton").supports(few, "h200") is None
    for config in (
        forward_config(View(1, 8, 512 * 512, True), 8, "float32"),
        backward_config(View(1, 8, 512 * 512, True), 8, "float32", 4),
    ):
        assert config.blocks * config.shares >= MULTIPROCESSORS
