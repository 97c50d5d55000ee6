"""Every operator with one step left out, or wrong; importing this module registers them as variants.

One description of each kind of operator asks `Mutant.without` at each of its steps; `STEPS` says which steps an
operator has, and in which passes and contexts leaving one out shows. What is left out is still read, or the program
would be refused for an argument that it does not take.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp

from normbench.cases import presets
from normbench.cases.case import Case
from normbench.kernels import Problem
from normbench.kernels.common.activations import activate
from normbench.kernels.common.form import FP8, FP8_MOST, PLAIN
from normbench.kernels.conv_bn.convolution import convolve
from normbench.kernels.conv_bn.geometry import geometry
from normbench.kernels.registry import Variant, get, register_variant, variants

FORWARD, BACKWARD, BOTH = "forward", "backward", "forward_backward"
ALL, GRADIENTS, OUTPUTS = (FORWARD, BACKWARD, BOTH), (BACKWARD, BOTH), (FORWARD, BOTH)
DTYPES = ("float32", "bfloat16")
NOTHING = 1e-30
"""Of a value that is left out: it is read, and changes nothing."""


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One operator without one step."""

    operator: str
    step: str
    passes: tuple[str, ...]
    context: str = ""
    options: tuple = ()

    @property
    def name(self) -> str:
        return f"without_{self.step}"

    def without(self, step: str) -> bool:
        return self.step == step

    def problems(self) -> Iterator[Problem]:
        """Of the sizes of the preset `smoke`."""
        (smoke, *_) = (problem for problem in presets.problems("smoke") if problem.operator == self.operator)
        for pass_ in self.passes:
            for dtype in DTYPES:
                yield dataclasses.replace(smoke, pass_=pass_, dtype=dtype, context=self.context or smoke.context,
                                          options=(*smoke.options, *self.options))  # fmt: skip


def _fixed(array, mutant: Mutant, step: str):
    """A constant to the gradient, where that is what the mutant leaves out."""
    return jax.lax.stop_gradient(array) if mutant.without(step) else array


def _kept(array, mutant: Mutant, step: str, neutral: float):
    """The array, or the number that is neutral in its place."""
    return neutral + NOTHING * array if mutant.without(step) else array


def _affine(mutant: Mutant, h, gamma, beta):
    """gamma h + beta."""
    gamma = _fixed(_kept(gamma, mutant, "gamma", 1.0), mutant, "gradient_of_gamma")
    beta = _fixed(_kept(beta, mutant, "beta", 0.0), mutant, "gradient_of_beta")
    if mutant.without("gamma_in_the_gradient"):
        stop = jax.lax.stop_gradient
        return stop(gamma * h) + (h - stop(h)) + (gamma - stop(gamma)) * stop(h) + beta
    return gamma * h + beta


def _finish(mutant: Mutant, z, activation: str, dtype):
    """act(z) in x's dtype."""
    y = z if mutant.without("activation") else activate(z, activation)
    if mutant.without("gradient_of_activation"):
        y = z + jax.lax.stop_gradient(y - z)
    if mutant.without("dtype"):
        return y.astype("float32" if dtype == jnp.bfloat16 else "bfloat16")
    return y.astype(dtype)[..., None] if mutant.without("shape") else y.astype(dtype)


def _normalized(mutant: Mutant, v, mean, variance, epsilon: float):
    """(v - mean) / sqrt(variance + epsilon)."""
    mean = _fixed(_kept(mean, mutant, "mean", 0.0), mutant, "gradient_of_mean")
    variance = _kept(variance, mutant, "variance", 0.0)
    epsilon = 0.0 if mutant.without("epsilon") else epsilon
    rstd = jax.lax.rsqrt(_fixed(variance, mutant, "gradient_of_variance") + epsilon)
    rstd = _kept(rstd, mutant, "deviation", 1.0)
    return (v - mean) * rstd


def _moments(mutant: Mutant, v, axes: tuple[int, ...], centred: bool):
    if mutant.without("axis"):
        kept = [axis for axis in range(v.ndim) if axis not in axes]
        axes = (max(kept, key=lambda axis: v.shape[axis]),) if len(axes) == 1 else axes[:-1]
    terms = math.prod(v.shape[axis] for axis in axes)
    mean = v.mean(axes, keepdims=True) if centred != mutant.without("centre") else jnp.zeros(())
    variance = jnp.square(v - mean).mean(axes, keepdims=True)
    return mean, variance, variance * (terms / (terms - 1) if mutant.without("bias") else 1.0)


def _rows(mutant: Mutant, x, gamma, *rest, epsilon, ndim, activation, form=PLAIN):
    """Layer norm and RMS norm, this in the forms of language models."""
    v = x.astype(jnp.float32)
    mean, _, variance = _moments(mutant, v, tuple(range(v.ndim - ndim, v.ndim)), centred=bool(rest))
    h = _normalized(mutant, v, mean, variance, epsilon)
    h = h if mutant.without("rounding_of_hat") else form.rounded(h)
    gamma = gamma if mutant.without("offset_of_gamma") else form.scale(gamma)
    y = _finish(mutant, _affine(mutant, h, gamma, *(rest or (jnp.zeros(()),))), activation, _arithmetic(form, x))
    return _in_units(mutant, form, y)


def _arithmetic(form, x):
    return jnp.dtype("float32") if form.divides else x.dtype


def _in_units(mutant: Mutant, form, y):
    """y in eight bits, where the form has it so."""
    if not form.divides:
        return y
    y = y if mutant.without("units") else y / form.fp8_scale
    return (y if mutant.without("clipping") else jnp.clip(y, -FP8_MOST, FP8_MOST)).astype(FP8)


def _groups(mutant: Mutant, x, gamma, beta, *, epsilon, channel_axis, activation, groups=None):
    """Group norm, and instance norm with a group for each channel; of x with channels on axis 1."""
    assert channel_axis == 1
    groups = groups or x.shape[1]
    v = x.astype(jnp.float32).reshape(x.shape[0], groups, -1)
    mean, _, variance = _moments(mutant, v, (2,), centred=True)
    h = _normalized(mutant, v, mean, variance, epsilon).reshape(x.shape)
    gamma, beta = (array.reshape(-1, *(1,) * (x.ndim - 2)) for array in (gamma, beta))
    return _finish(mutant, _affine(mutant, h, gamma, beta), activation, x.dtype)


def _over_channels(x, *vectors):
    return [vector.reshape(-1, *(1,) * (x.ndim - 2)) for vector in vectors]


def _given(mutant: Mutant, x, gamma, beta, mean, variance, *, epsilon, channel_axis, activation):
    """Batch norm for inference; of x with channels on axis 1."""
    assert channel_axis == 1
    v = x.astype(jnp.float32)
    gamma, beta, mean, variance = _over_channels(v, gamma, beta, mean, variance)
    if mutant.without("given_statistics"):
        own_mean, own_variance, _ = _moments(mutant, v, (0, 2, 3), centred=True)
        mean, variance = own_mean + NOTHING * mean, own_variance + NOTHING * variance
    if mutant.without("axis"):
        mean, variance = (jnp.flip(one, 0) for one in (mean, variance))
    h = _normalized(mutant, v, mean, variance, epsilon)
    return _finish(mutant, _affine(mutant, h, gamma, beta), activation, x.dtype)


def _training(mutant: Mutant, x, gamma, beta, mean, variance, *, epsilon, momentum, channel_axis, activation):
    """Batch norm in training; of x with channels on axis 1."""
    assert channel_axis == 1
    v = x.astype(jnp.float32)
    gamma, beta, old_mean, old_variance = _over_channels(v, gamma, beta, mean, variance)
    batch_mean, biased, used = _moments(mutant, v, (0, 2, 3), centred=True)
    terms = v.size // gamma.size
    if mutant.without("axis"):
        batch_mean, biased, used = (one.mean((0, 2, 3), keepdims=True) for one in (batch_mean, biased, used))
    new = (batch_mean, biased if mutant.without("bias_of_the_running_variance") else biased * terms / (terms - 1))
    if mutant.without("batch_statistics"):
        batch_mean, used = old_mean + NOTHING * batch_mean, old_variance + NOTHING * used
    h = _normalized(mutant, v, batch_mean, used, epsilon)
    y = _finish(mutant, _affine(mutant, h, gamma, beta), activation, x.dtype)
    share = {"momentum": 1 - momentum, "update": NOTHING}.get(mutant.step, momentum)
    moved = [(1 - share) * old + share * one.reshape(old.shape) for old, one in
             zip((old_mean, old_variance), map(jax.lax.stop_gradient, new), strict=True)]  # fmt: skip
    return y, *(one.reshape(mean.shape) for one in moved)


def _convolution(mutant: Mutant, x, weight, bias, gamma, beta, mean, variance, *, epsilon, activation, **window):
    """A convolution, then batch norm; of x with channels on axis 1."""
    weight = _fixed(weight, mutant, "gradient_of_weight")
    if mutant.without("axis"):
        weight = jnp.flip(weight, 1)
    v = convolve(x, weight, geometry(**window)).astype(jnp.float32)
    gamma, beta, mean, variance = _over_channels(v, gamma, beta, mean, variance)
    h = _normalized(mutant, v, mean, variance, epsilon)
    return _finish(mutant, _affine(mutant, h, gamma, beta), activation, x.dtype)


def _window(mutant: Mutant, x, *, size, alpha, beta, k, channel_axis):
    """Local response norm; of x with channels on axis 1."""
    v = x.astype(jnp.float32)
    before, after = size // 2, (size - 1) // 2
    if mutant.without("even_window"):
        before, after = after, before
    axis = 2 if mutant.without("axis") else 1
    pads = [(before, after) if index == axis else (0, 0) for index in range(v.ndim)]
    squares = jnp.pad(jnp.square(v), pads)
    length = v.shape[axis]
    sums = sum(jax.lax.slice_in_dim(squares, start, start + length, axis=axis) for start in range(size))
    sums = _fixed(_kept(sums, mutant, "sum", 0.0), mutant, "gradient_of_sum")
    base = (0.0 if mutant.without("k") else k) + alpha / (1 if mutant.without("size") else size) * sums
    return _finish(mutant, v * base ** (-1.0 if mutant.without("power") else -beta), "none", x.dtype)


_NORM = {step: ALL for step in ("mean", "variance", "deviation", "epsilon", "gamma", "beta", "axis")}
_FORM = {"dtype": OUTPUTS, "shape": OUTPUTS}
_AFFINE = {step: GRADIENTS for step in ("gradient_of_gamma", "gradient_of_beta", "gamma_in_the_gradient")}
_STATISTICS = {"gradient_of_mean": GRADIENTS, "gradient_of_variance": GRADIENTS}
_SQUARE = {step: passes for step, passes in {**_NORM, **_FORM, **_AFFINE, **_STATISTICS}.items()
           if step not in ("mean", "beta", "gradient_of_mean", "gradient_of_beta")}  # fmt: skip
STEPS: dict[str, dict[str, tuple[str, ...]]] = {
    "batch_norm": {**_NORM, **_FORM, **_AFFINE, **_STATISTICS, "given_statistics": ALL},
    "batch_norm_training": {
        **_NORM, **_FORM, **_AFFINE, **_STATISTICS, "bias": ALL, "batch_statistics": ALL,
        "bias_of_the_running_variance": OUTPUTS, "momentum": OUTPUTS, "update": OUTPUTS,
    },
    "layer_norm": {**_NORM, **_FORM, **_AFFINE, **_STATISTICS, "bias": ALL},
    "rms_norm": {**_SQUARE, "centre": ALL},
    "group_norm": {**_NORM, **_FORM, **_AFFINE, **_STATISTICS, "bias": ALL},
    "instance_norm": {**_NORM, **_FORM, **_AFFINE, **_STATISTICS, "bias": ALL},
    "local_response_norm": {
        **{step: ALL for step in ("sum", "k", "size", "power", "even_window", "axis")}, **_FORM,
        "gradient_of_sum": GRADIENTS,
    },
    "conv_bn": {**_NORM, **_FORM, **_AFFINE, **_STATISTICS, "gradient_of_weight": GRADIENTS},
}  # fmt: skip
"""Of each operator the steps, and the passes in which leaving one out shows."""
_ACTIVATED = {"activation": ALL, "gradient_of_activation": GRADIENTS}
_ADDED = {"residual": ALL, "gradient_of_residual": GRADIENTS, "sum": (FORWARD,), "dtype_of_sum": OUTPUTS}
_FORMS: tuple[tuple[str, tuple[str, ...], tuple], ...] = (
    ("rounding_of_hat", OUTPUTS, (("hat_dtype", "bfloat16"),)),
    ("offset_of_gamma", ALL, (("scale_offset", 1),)),
    ("units", ALL, (("fp8_scale", 0.5),)),
    ("clipping", ALL, (("fp8_scale", 0.005),)),
)
"""Of RMS norm as language models have it: Llama rounds x_hat, Gemma adds one, y in eight bits."""
_CONTEXTS: tuple[tuple[str, dict[str, tuple[str, ...]], tuple[str, ...]], ...] = (
    ("silu", _ACTIVATED, tuple(name for name in STEPS if name != "local_response_norm")),
    ("residual", _ADDED, ("batch_norm", "batch_norm_training", "layer_norm", "rms_norm", "group_norm")),
)
_FUNCTIONS: dict[str, Callable] = {
    "batch_norm": _given, "batch_norm_training": _training, "layer_norm": _rows, "rms_norm": _rows,
    "group_norm": _groups, "instance_norm": _groups, "local_response_norm": _window, "conv_bn": _convolution,
}  # fmt: skip


def _with_residual(mutant: Mutant, function: Callable, x, *others, residual, **keywords):
    """(y, z), z = x + residual."""
    z = x + NOTHING * residual if mutant.without("residual") else x + residual
    outputs = function(z, *others, **keywords)
    y, statistics = (outputs[0], outputs[1:]) if isinstance(outputs, tuple) else (outputs, ())
    second = x + residual
    second = NOTHING * second + _fixed(second, mutant, "gradient_of_residual")
    if mutant.without("sum"):
        return (y, *statistics) if statistics else y
    if mutant.without("dtype_of_sum"):
        second = second.astype("float32" if x.dtype == jnp.bfloat16 else "bfloat16")
    return ((y, second), *statistics) if statistics else (y, second)


def mutants() -> list[Mutant]:
    found = [Mutant(operator, step, passes) for operator, steps in STEPS.items() for step, passes in steps.items()]
    for context, steps, operators in _CONTEXTS:
        found += [Mutant(operator, *step, context) for operator in operators for step in steps.items()]
    return found + [Mutant("rms_norm", step, passes, "", options) for step, passes, options in _FORMS]


def cases() -> list[Case]:
    """Each mutant in each of its passes, in float32 and bfloat16, on the sizes of `smoke`."""
    return [Case(problem, mutant.name) for mutant in mutants() for problem in mutant.problems()]


for _mutant in mutants():
    _function = partial(_FUNCTIONS[_mutant.operator], _mutant)
    register_variant(
        Variant(
            _mutant.operator,
            _mutant.name,
            _function,
            f"without {_mutant.step}",
            output_dtype=get(_mutant.operator, variants(_mutant.operator)[0]).output_dtype,
            fused_contexts={"residual": partial(_with_residual, _mutant, _function)},
        )
    )
