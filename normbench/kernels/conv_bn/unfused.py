"""Convolution, then the textbook batch norm, then the activation: what a model written layer by layer does."""

from collections.abc import Sequence

import jax

from normbench.kernels.batch_norm.naive import naive
from normbench.kernels.conv_bn.arguments import add_bias, checked
from normbench.kernels.conv_bn.convolution import convolve
from normbench.kernels.conv_bn.geometry import Padding, geometry


def unfused(
    x: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None,
    gamma: jax.Array,
    beta: jax.Array,
    mean: jax.Array,
    variance: jax.Array,
    epsilon: float = 1e-5,
    *,
    layout: str = "nchw",
    stride: int | Sequence[int] = 1,
    padding: Padding = "same",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    transposed: bool = False,
    activation: str = "silu",
) -> jax.Array:
    """y = act((convolution(x, weight) + bias - mean) / sqrt(variance + epsilon) * gamma + beta).

    Args:
      x: (N, I, *spatial) or (N, *spatial, I), as `layout` says: "ncl", "nlc", "nchw", "nhwc", "ncdhw" or "ndhwc".
      weight: (O, I/groups, *kernel) for channels first, (*kernel, I/groups, O) for channels last; where transposed,
        (I, O/groups, *kernel) and (*kernel, I, O/groups). In x's dtype.
      bias: (O,) in x's dtype, or None.
      gamma, beta, mean, variance: (O,).
      epsilon: added to the variance; a Python number.
      stride, dilation: one number, or one per spatial axis.
      padding: "same", "valid", a number, a number per axis, or a (low, high) pair per axis. Where transposed it is cut
        off the full output, as by PyTorch's ConvTranspose.
      groups: the input channels for a depthwise convolution.
      transposed: PyTorch's ConvTranspose, with its mirrored kernel.
      activation: "none", "relu", "silu" or "gelu".

    Returns:
      y in x's dtype. The convolution's own output is in x's dtype too, as where the layers are called one by one; batch
      norm and activation are computed in float32 at least.

    Raises:
      UserError: for arguments that do not fit together.
    """
    shape = geometry(layout, stride, padding, dilation, groups, transposed)
    a = checked(x, weight, bias, gamma, beta, mean, variance, epsilon, shape, activation)
    y = convolve(a.x, a.weight, shape)
    if a.bias is not None:
        y = add_bias(y, a.bias, shape)
    return naive(
        y, a.gamma, a.beta, a.mean, a.variance, a.epsilon, channel_axis=shape.channel_axis(), activation=activation
    )
