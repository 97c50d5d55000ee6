"""A gradient by hand that saves x alone, and makes the sums over the window again.

With s = k + alpha / size * sum of x² over the window, and the sum below over the windows that a channel lies in:

    dx = dy s^-beta - 2 alpha beta / size * x * sum(dy y / s)
"""

from functools import partial

import jax

from normbench.kernels.local_response_norm.arguments import Arguments, checked, reach, shifted_sum
from normbench.kernels.local_response_norm.naive import divide


def custom_vjp(
    x: jax.Array, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0, *, channel_axis: int = 1
) -> jax.Array:
    """As `naive`, in the form of `shifted`."""
    a = checked(x, size, alpha, beta, k, channel_axis)
    return _normalize(a.x, tuple(a[1:]))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _normalize(x, settings):
    a = Arguments(x, *settings)
    return divide(a, a.wide, _window_sums(a))


def _window_sums(a: Arguments) -> jax.Array:
    return shifted_sum(a.wide * a.wide, a.axis, *reach(a.size))


def _forward(x, settings):
    return _normalize(x, settings), x


def _backward(settings, x, cotangent):
    a = Arguments(x, *settings)
    dy = cotangent.astype(a.wide.dtype)
    base = _base(a)
    # y / s, and not x s^(-beta - 1), which is 0 where y is not.
    terms = dy * (a.wide * base**-a.beta / base)
    # The barrier has the compiler make the base again, from x, where it would else write it in float32 for later.
    x, terms = jax.lax.optimization_barrier((x, terms))
    a = Arguments(x, *settings)
    before, after = reach(a.size)
    sums = shifted_sum(terms, a.axis, after, before)
    dx = dy * _base(a) ** -a.beta - (2 * a.alpha * a.beta / a.size) * a.wide * sums
    return (dx.astype(x.dtype),)


def _base(a: Arguments) -> jax.Array:
    return a.k + a.alpha / a.size * _window_sums(a)


_normalize.defvjp(_forward, _backward)
