"""The sum over the window as `reduce_window`, JAX's own."""

import jax

from normbench.kernels.common.powers import over_power
from normbench.kernels.local_response_norm.arguments import Arguments, checked, reach


def naive(
    x: jax.Array, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0, *, channel_axis: int = 1
) -> jax.Array:
    """y = x / (k + alpha / size * sum of x² over the window)^beta.

    The window of a channel is `size` channels, from size // 2 before it to (size - 1) // 2 after it, zero beyond the
    ends: an even window takes one more before.

    Args:
      x: (N, C, ...) or (N, ..., C).
      size, alpha, beta, k: Python numbers.
      channel_axis: 1 or -1.

    Returns:
      y in the shape and dtype of x. Computed in float32, or in float64 where x is.

    Raises:
      UserError: for arguments that make no sense.

    Source: Krizhevsky, Sutskever and Hinton (2012), section 3.3, with alpha / size for alpha, as
    torch.nn.functional.local_response_norm has it.
    """
    a = checked(x, size, alpha, beta, k, channel_axis)
    window, pads = [1] * a.x.ndim, [(0, 0)] * a.x.ndim
    window[a.axis], pads[a.axis] = a.size, reach(a.size)
    wide = a.wide
    sums = jax.lax.reduce_window(wide * wide, 0.0, jax.lax.add, window, [1] * a.x.ndim, pads)
    return divide(a, wide, sums)


def divide(a: Arguments, wide: jax.Array, sums: jax.Array) -> jax.Array:
    """x / (k + alpha / size * sums)^beta in x's dtype.

    `wide` is the x that the sums are made of: where each is widened by itself, their gradients are rounded to x's dtype
    before they are added.
    """
    return over_power(wide, a.k + a.alpha / a.size * sums, a.beta).astype(a.x.dtype)
