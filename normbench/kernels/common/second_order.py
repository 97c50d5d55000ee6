"""Kernels with a gradient by hand whose gradient can be differentiated again: once more by hand no kernel is worth it.

JAX differentiates no kernel. Of a function y = f(a) with hand-written f and g(a, dy), the pullback of f, second
derivatives are those of the pullback of a plain JAX formula for f, which is compiled only where they are asked for.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from normbench.jax_compat.varying import alike
from normbench.kernels.common.activations import activate
from normbench.kernels.common.statistics import Axes, centred_twice, inverse_root, mean_over

Forward = Callable[[Any, Any, bool], tuple[Any, Any]]


def twice_differentiable(
    forward: Forward,
    backward: Callable[..., Any],
    plain: Callable[[Any, Any], Any],
    keep: Callable[[Any, Any], Any] = lambda arrays, outputs: arrays,
    used: Callable[[Any], Any] = lambda cotangents: cotangents,
    expand: Callable[[Any, Any], Any] = lambda gradients, cotangents: gradients,
) -> Callable[[Any, Any], Any]:
    """Returns f(arrays, plan) -> outputs, with first and second derivatives in reverse mode.

    Args:
      forward: (arrays, plan, saves) -> (outputs, saved); what is saved is None without `saves`.
      backward: (kept, saved, used cotangents, plan) -> cotangents of what is kept, in its structure.
      plain: (kept, plan) -> the outputs whose cotangents are used, in JAX's own operations.
      keep: (arrays, outputs) -> what a gradient needs of them; all arrays where it is not given.
      used: (cotangents of the outputs) -> those that a gradient is made of; all where it is not given.
      expand: (cotangents of what is kept, cotangents of the outputs) -> cotangents of the arrays.

    `arrays`, `kept` and `saved` are pytrees, `plan` is hashable.
    """

    @partial(jax.custom_vjp, nondiff_argnums=(3,))
    def gradients(kept, saved, cotangents, plan):
        return backward(kept, saved, cotangents, plan)

    def gradients_forward(kept, saved, cotangents, plan):
        return gradients(kept, saved, cotangents, plan), (kept, saved, cotangents)

    def gradients_backward(plan, inputs, tangents):
        kept, saved, cotangents = inputs

        def plain_gradients(kept, cotangents):
            return jax.vjp(lambda kept: plain(kept, plan), kept)[1](cotangents)[0]

        of_kept, of_cotangents = jax.vjp(plain_gradients, kept, cotangents)[1](tangents)
        # What is saved is a function of what is kept, as whose derivative it has been counted.
        return of_kept, jax.tree.map(jnp.zeros_like, saved), of_cotangents

    gradients.defvjp(gradients_forward, gradients_backward)

    def pull(plan, kept_and_saved, cotangents):
        return (expand(gradients(*kept_and_saved, used(cotangents), plan), cotangents),)

    @partial(jax.custom_vjp, nondiff_argnums=(1,))
    def saving(arrays, plan):
        return forward(arrays, plan, True)

    def saving_forward(arrays, plan):
        outputs, saved = saving(arrays, plan)
        return (outputs, saved), (keep(arrays, outputs), saved)

    saving.defvjp(saving_forward, lambda plan, kept, cotangents: pull(plan, kept, cotangents[0]))

    @partial(jax.custom_vjp, nondiff_argnums=(1,))
    def differentiable(arrays, plan):
        return forward(arrays, plan, False)[0]

    def differentiable_forward(arrays, plan):
        outputs, saved = saving(arrays, plan)
        return outputs, (keep(arrays, outputs), saved)

    differentiable.defvjp(differentiable_forward, pull)
    return lambda arrays, plan: differentiable(alike(arrays), plan)


def what_was_normalized(arrays: tuple, outputs: tuple) -> tuple:
    """Of (x, residual or None, parameters) and (y, z or None): x or z, and the parameters."""
    (x, _, parameters), (_, z) = arrays, outputs
    return x if z is None else z, parameters


def of_both_terms(gradients: tuple, cotangents: tuple) -> tuple:
    """The cotangents of x, of a residual where there is one, and of the parameters."""
    dw, dparameters = gradients
    return dw, None if cotangents[1] is None else dw, dparameters


def of_first(cotangents: tuple) -> Any:
    """That of y, of an operator that returns new running statistics, too."""
    return cotangents[0]


def without_running(arrays: tuple, outputs: tuple) -> tuple:
    """All but the running statistics, the last of the arrays."""
    return arrays[:-1]


def none_for_running(gradients: tuple, cotangents: tuple) -> tuple:
    """Running statistics are constants: zeros of their shapes, which are those of the new ones."""
    return *gradients, jax.tree.map(jnp.zeros_like, tuple(cotangents[1:]))


def standardized(x: jax.Array, axes: Axes, epsilon: float, centered: bool = True) -> jax.Array:
    """(x - mean) / sqrt(variance + epsilon) over the axes; not `centered`: the mean is 0."""
    if centered:
        _, x, variance = centred_twice(x, axes)
    else:
        variance = mean_over(jnp.square(x), axes)
    return x * inverse_root(variance, epsilon)


def plain_norm(
    x: jax.Array, gamma: jax.Array, beta: jax.Array, axes: Axes, epsilon: float, activation: str, output_dtype: str
) -> jax.Array:
    """act(h gamma + beta), computed in the widest dtype, in `output_dtype`; gamma and beta are lined up with x."""
    dtype = jnp.result_type(jnp.float32, x.dtype, gamma.dtype, beta.dtype)
    h = standardized(x.astype(dtype), axes, epsilon)
    return activate(h * gamma.astype(dtype) + beta.astype(dtype), activation).astype(output_dtype)


def plain_given(
    x: jax.Array, parameters: tuple[jax.Array, ...], shape: tuple[int, ...], epsilon: float, activation: str
) -> jax.Array:
    """Inference batch norm; `parameters` are gamma, beta, mean and variance, `shape` lines them up with x."""
    dtype = jnp.result_type(jnp.float32, x.dtype, *(p.dtype for p in parameters))
    gamma, beta, mean, variance = (p.astype(dtype).reshape(shape) for p in parameters)
    return activate((x.astype(dtype) - mean) * (inverse_root(variance, epsilon) * gamma) + beta, activation)
