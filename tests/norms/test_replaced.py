"""What a program with its normalizations replaced computes, moves and takes, and what the report says of it."""

import importlib.util

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from normbench import explain, jax_compat, kernels
from normbench.errors import UserError

needs_gpu_targets = pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda13_plugin") is None, reason="needs the extra gpu-targets"
)
BF16, F32 = jnp.bfloat16, jnp.float32


def array(*sizes, dtype=BF16):
    return jax.ShapeDtypeStruct(sizes, dtype)


# --- the rewritten program computes the same


def centred(x, gamma, beta, axes, epsilon=1e-5):
    mean = x.mean(axes, keepdims=True)
    variance = jnp.square(x - mean).mean(axes, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + epsilon) * gamma + beta


def layer(x, w, gamma, beta):
    """Between products, beside a residual connection: the cotangents of both ways meet in x."""
    h = x @ w
    return h + jnp.sin(centred(h, gamma, beta, -1) @ w)


def rms_twice(x, w, gamma):
    def block(h):
        return jnp.tanh(h * jax.lax.rsqrt(jnp.square(h).mean(-1, keepdims=True) + 1e-5) * gamma @ w)

    h = x @ w
    h = h + block(h)
    return h + block(h)


def group_silu(x, w, gamma, beta):
    h = jnp.einsum("nhwc,cd->nhwd", x, w)
    y = nn.GroupNorm(2, epsilon=1e-5).apply({"params": {"scale": gamma, "bias": beta}}, h)
    return jnp.einsum("nhwc,cd->nhwd", nn.silu(y), w)


def batch_relu(x, w, gamma, beta, mean, variance):
    h = jnp.einsum("nhwc,cd->nhwd", x, w)
    variables = {"params": {"scale": gamma, "bias": beta}, "batch_stats": {"mean": mean, "var": variance}}
    y, updated = nn.BatchNorm(False, momentum=0.9).apply(variables, h, mutable=["batch_stats"])
    return jnp.einsum("nhwc,cd->nhwd", nn.relu(y), w), updated["batch_stats"]


def gradient(function):
    """Everything that a train step wants: the value, what comes with it, and the gradients of all arguments."""

    def loss(*arrays):
        found = function(*arrays)
        y, others = found if isinstance(found, tuple) else (found, ())
        return jnp.cos(y).sum(), (y, others)

    return lambda *arrays: jax.value_and_grad(loss, argnums=tuple(range(len(arrays))), has_aux=True)(*arrays)


C = (8,)
COMPUTED = {
    "layer": (layer, [(6, 8), (8, 8), C, C], "one_pass"),
    "layer, gradient": (gradient(layer), [(6, 8), (8, 8), C, C], "custom_vjp"),
    "RMS twice, gradient": (gradient(rms_twice), [(2, 6, 8), (8, 8), C], "custom_vjp"),
    "group with silu, gradient": (gradient(group_silu), [(2, 4, 4, 8), (8, 8), C, C], "one_pass"),
    "batch with relu, gradient": (gradient(batch_relu), [(8, 16, 16, 8), (8, 8), C, C, C, C], "pivoted"),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_the_program_with_its_normalizations_replaced_computes_the_same(name):
    """Scale and shift, dscale and dshift, and the mean and the variance are told apart, and no cotangent is lost."""
    function, shapes, variant = COMPUTED[name]
    arrays = [jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes)]
    arrays[5:] = [jnp.abs(one) for one in arrays[5:]]
    norms = explain(function, *arrays, target="cpu").norms
    replaced = norms.replaced(dict.fromkeys(range(len(norms)), variant))
    assert (len(replaced.variants), replaced.left) == (len(norms), {})
    loaded = jax_compat.compile_bytecode(replaced.module, jax_compat.local_client("cpu"), {}, load=True)
    found = loaded.execute_sharded(arrays).disassemble_into_single_device_arrays()
    wanted = jax.tree.leaves(jax.jit(function)(*arrays))
    assert len(found) == len(wanted)
    for (one,), other in zip(found, wanted, strict=True):
        # The registry's running variance is unbiased, flax's is not: 1/2048 of a tenth.
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)


def rms(x):
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-5)


def standardised(x, ddof=0):
    return (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True, ddof=ddof) + 1e-5)


def folded(x, gamma, beta):
    factor = jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5) * gamma
    return x * factor + (beta - x.mean(-1, keepdims=True) * factor)


def divided(x, gamma):
    return x / (jnp.sqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-5) * gamma)


def with_outer_epsilon(x):
    return (x - x.mean(-1, keepdims=True)) / (x.std(-1, keepdims=True) + 1e-1)


SOMETHING_ELSE = {  # from x, and two arrays like a scale
    "x is scaled first": (lambda x, a, b: rms(x * a), "scaled, shifted, masked or transposed first"),
    "x is shifted first": (lambda x, a, b: standardised(x - a), "scaled, shifted, masked or transposed first"),
    "x is masked first": (lambda x, a, b: rms(jnp.where(a > 0, x, 0)), "scaled, shifted, masked or transposed first"),
    "x is transposed first": (lambda x, a, b: standardised(x.T), "scaled, shifted, masked or transposed first"),
    "scaled twice": (lambda x, a, b: rms(x) * a * b, "scaled, then scaled"),
    "shifted, then scaled": (lambda x, a, b: (rms(x) + a) * b, "shifted, then scaled"),
    "shifted twice": (lambda x, a, b: standardised(x) + a + b, "shifted, then shifted"),
    "shifted by a negative": (lambda x, a, b: standardised(x) * a - b, "shifted by a negative"),
    "divided by its scale": (lambda x, a, b: divided(x, a), "divided"),
    "centred with its shift": (folded, "centred together with its shift"),
    "n - 1": (lambda x, a, b: standardised(x, ddof=1), "n - 1"),
    "epsilon outside": (lambda x, a, b: with_outer_epsilon(x) * a, "its epsilon is added to the root"),
}


@pytest.mark.parametrize("name", SOMETHING_ELSE)
def test_what_no_operator_computes_is_left(name):
    function, words = SOMETHING_ELSE[name]
    norms = explain(
        lambda x, w, a, b: function(x @ w, a, b), array(6, 8), array(8, 8), *[array(8)] * 2, target="cpu"
    ).norms
    with pytest.raises(UserError, match=words):
        norms.replaced({0: "naive"})


# --- what it says of a program is what the program written with these calls moves and takes


class Convolved(nn.Module):
    """Two convolutions and their norms, replaced by the variant of that name where there is one."""

    variant: str = ""

    def norm(self, x, name):
        if not self.variant:
            return nn.relu(nn.BatchNorm(False, momentum=0.9, dtype=BF16, name=name)(x))
        return Call(self.variant, name=name)(x)

    @nn.compact
    def __call__(self, x):
        y = self.norm(nn.Conv(64, (3, 3), use_bias=False, dtype=BF16)(x), "first")
        return nn.relu(x + self.norm(nn.Conv(64, (3, 3), use_bias=False, dtype=BF16)(y), "second"))


class Call(nn.Module):
    variant: str

    @nn.compact
    def __call__(self, x):
        sizes = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, sizes)
        bias = self.param("bias", nn.initializers.zeros, sizes)
        mean = self.variable("batch_stats", "mean", jnp.zeros, sizes)
        variance = self.variable("batch_stats", "var", jnp.ones, sizes)
        norm = kernels.get("batch_norm_training", self.variant)
        y, mean.value, variance.value = norm(x, scale, bias, mean.value, variance.value, 1e-5, channel_axis=-1,
                                             activation="relu")  # fmt: skip
        return y


def convolved_step(model):
    x = array(8, 32, 32, 64)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(x.shape, x.dtype)))

    def loss(variables, x):
        y, updated = model.apply(variables, x, mutable=["batch_stats"])
        return jnp.square(y.astype(F32)).mean(), updated

    return explain(jax.value_and_grad(loss, has_aux=True), variables, x, target="h200")


@needs_gpu_targets
def test_a_train_step_changes_as_the_report_says():
    """With kernels of Pallas what was fused is apart, sums for both branches are, and layouts are copied."""
    before = convolved_step(Convolved())
    said = before.norms.replaced({0: "pallas_triton", 1: "pallas_triton"})
    after = convolved_step(Convolved("pallas_triton"))
    assert abs(said.saved_bytes) > 0.05 * before.bytes
    assert before.bytes - after.bytes == pytest.approx(said.saved_bytes, rel=0.05)
    assert before.predicted_s - after.predicted_s == pytest.approx(said.saved_s, rel=0.05)
    assert len(after.launches) == said.launches
    assert "less" in repr(said) or "more" in repr(said)


@needs_gpu_targets
def test_a_program_that_a_kernel_makes_worse_is_said_to_become_worse():
    def block(x, w, gamma, norm):
        y = norm(x, gamma) @ w
        return x + norm(y, gamma) @ w

    def written(x, gamma):
        x32 = x.astype(F32)
        return (x32 * jax.lax.rsqrt(jnp.square(x32).mean(-1, keepdims=True) + 1e-5) * gamma).astype(BF16)

    def call(x, gamma):
        return kernels.get("rms_norm", "pallas_mosaic")(x, gamma, epsilon=1e-5)

    arguments = array(256, 1024), array(1024, 1024), array(1024, dtype=F32)
    before, after = (explain(lambda *a, n=norm: block(*a, n), *arguments, target="h200") for norm in (written, call))
    said = before.norms.replaced({0: "pallas_mosaic", 1: "pallas_mosaic"})
    assert said.saved_s < 0
    assert before.bytes - after.bytes == said.saved_bytes
    assert before.predicted_s - after.predicted_s == pytest.approx(said.saved_s, rel=0.05)


# --- what cannot be done is said in a line


def test_what_cannot_be_replaced_is_left_or_refused_in_a_line():
    def scanned(x, gamma):
        return jax.lax.scan(lambda h, _: (centred(h, gamma, 0.0, -1), None), x, length=3)[0]

    def repeated(x, w, gamma, beta):
        return jax.grad(lambda x: jax.checkpoint(layer)(x, w, gamma, beta).sum())(x)

    x, c = array(6, 8, dtype=F32), array(8, dtype=F32)
    in_loop = explain(scanned, x, c, target="cpu").norms
    again = explain(repeated, x, array(8, 8, dtype=F32), c, c, target="cpu").norms
    mesh = jax.sharding.AbstractMesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    cut = jax.sharding.PartitionSpec("d")
    part = jax.shard_map(standardised, mesh=mesh, in_specs=cut, out_specs=cut)
    in_parts = explain(part, array(8, 8, dtype=F32), target="h200").norms
    for norms, words in ((in_loop, "loop"), (again, "computed again"), (in_parts, "in a shard_map")):
        with pytest.raises(UserError, match=words) as refused:
            norms.replaced({0: "one_pass"})
        assert "\n" not in str(refused.value)
    for variants, words in (
        ({5: "one_pass"}, "no normalization 5"),
        ({0: "nonsense"}, "nonsense"),
        ({}, "none is given"),
        ([0], "variants is a list; allowed: a mapping"),
    ):
        with pytest.raises(UserError, match=words):
            again.replaced(variants)
    with pytest.raises(UserError, match="name some"):
        again.replaced()


# --- the other actions


def convolved(x, w):
    return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def given(x, mean, variance, gamma, beta):
    return jax.nn.relu((x.astype(F32) - mean) * (jax.lax.rsqrt(variance + 1e-5) * gamma) + beta).astype(BF16)


def in_batch(variance):
    def normalised(x, gamma, beta):
        x = x.astype(F32)
        mean = x.mean((0, 1, 2))
        return ((x - mean) * jax.lax.rsqrt(variance(x, mean) + 1e-5) * gamma + beta).astype(BF16)

    return normalised


def wide(x, w):
    return jax.nn.standardize(x.astype(F32), -1) @ w


def cast(x, w):
    return (jax.nn.standardize(x.astype(F32), -1).astype(BF16) @ w.astype(BF16)).astype(F32)


def returned_wide(x):
    return jax.nn.standardize(x.astype(F32), -1)


def returned_cast(x):
    return returned_wide(x).astype(BF16)


IMAGES, VECTOR, FILTER = array(16, 32, 32, 64), array(64, dtype=F32), array(3, 3, 64, 64)
CHANGES = {
    "cast back": (wide, cast, (array(1024, 1024), array(1024, 1024, dtype=F32)), None),
    "cast back, where it is returned": (returned_wide, returned_cast, (array(1024, 1024),), None),
    "fold into the convolution": (
        lambda x, w, *parameters: given(convolved(x, w), *parameters),
        lambda x, w, bias: jax.nn.relu(convolved(x, w) + bias),
        (IMAGES, FILTER, VECTOR, VECTOR, VECTOR, VECTOR),
        (IMAGES, FILTER, array(64)),
    ),
    "one-pass or pivoted statistics": (
        in_batch(lambda x, mean: jnp.square(x - mean).mean((0, 1, 2))),
        in_batch(lambda x, mean: jnp.maximum(jnp.square(x).mean((0, 1, 2)) - jnp.square(mean), 0)),
        (IMAGES, VECTOR, VECTOR),
        None,
    ),
}


@needs_gpu_targets
@pytest.mark.parametrize("change", CHANGES)
def test_doing_what_the_report_says_saves_the_bytes_that_it_says(change):
    before, after, arguments, others = CHANGES[change]
    action = change.split(",")[0]
    report = explain(before, *arguments, target="h200")
    (site,) = report.norms
    (said,) = (one.saved_bytes for one in site.advice if one.action == action)
    saved = report.bytes - explain(after, *(others or arguments), target="h200").bytes
    assert saved == pytest.approx(said, rel=0.05)


@needs_gpu_targets
def test_what_is_cast_back_after_its_activation_is_not_to_be_cast_back():
    def activated(x, w):
        return jax.nn.relu(jax.nn.standardize(x.astype(F32), -1)).astype(BF16) @ w

    (site,) = explain(activated, array(1024, 1024), array(1024, 1024), target="h200").norms
    assert "cast back" not in [one.action for one in site.advice]


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8, jnp.int16])
def test_integers_that_are_normalised_are_not_cast_back(dtype):
    (site,) = explain(returned_wide, array(64, 128, dtype=dtype), target="cpu").norms
    assert "cast back" not in [one.action for one in site.advice]
