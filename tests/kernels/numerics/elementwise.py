"""Inference batch norm, convolution with batch norm, and local response norm in extended precision, with what rounding
may leave of each output: (right, bound) of y and of every gradient.

`u` is the roundoff of x's dtype where it is half precision, else 0: what is stored in it between two operations is
rounded. `eps` is that of the arithmetic, and `smallest` and
`largest` what x's dtype holds.
"""

from dataclasses import dataclass

import numpy as np

from normbench.kernels.problem import Problem

Wide = np.longdouble
Bounded = list[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Precision:
    eps: float
    u: float
    smallest: float
    largest: float


def over_channels(vector: np.ndarray, problem: Problem) -> np.ndarray:
    axis = problem.channel_axis
    return vector.reshape([-1 if a == axis else 1 for a in range(len(problem.shape))])


def channel_sum(values: np.ndarray, problem: Problem) -> np.ndarray:
    return values.sum(tuple(axis for axis in range(values.ndim) if axis != problem.channel_axis))


def batch_norm(problem: Problem, arrays, dy, is_folded: bool, precision: Precision) -> Bounded:
    """y, and the gradients of x, gamma, beta, mean and variance, by the textbook's equations. Nothing is promised of
    channels of which anything on the way exceeds `precision.largest`."""
    x, *parameters = (np.asarray(array).astype(Wide) for array in arrays)
    gamma, beta, mean, variance = (over_channels(one, problem) for one in parameters)
    r = 1 / np.sqrt(variance + Wide(problem.epsilon))
    h, dy = (x - mean) * r, np.asarray(dy).astype(Wide)
    # Folded, x * scale and mean * scale stand for h.
    size = (np.abs(x) + np.abs(mean)) * r if is_folded else np.abs(h)
    y, of_y = h * gamma + beta, size * np.abs(gamma) + np.abs(beta)
    sums = [dy * h, dy, -dy * gamma * r, -dy * gamma * h * r * r / 2]
    terms = [np.abs(dy) * size, np.abs(dy), np.abs(dy * gamma * r), np.abs(dy * gamma) * size * r * r]
    few = 8 * precision.eps
    many = precision.eps * (8 + 2 * np.sqrt(x.size / mean.size))
    axes = tuple(axis for axis in range(x.ndim) if axis != problem.channel_axis)
    peak = np.max(np.abs(x - mean), axes, keepdims=True) * (1 + np.abs(gamma)) * (1 + r + r**3)
    lost = np.where(peak > precision.largest, np.inf, 0)
    found = [(y, few * of_y + lost), (dy * gamma * r, few * np.abs(dy * gamma * r) + lost)]
    return found + [
        (channel_sum(one, problem), many * channel_sum(size, problem) + lost.reshape(-1))
        for one, size in zip(sums, terms, strict=True)
    ]


def window_sum(values: np.ndarray, before: int, after: int) -> np.ndarray:
    """Over the neighbours on axis 1, from `before` before to `after` after."""
    padded = np.pad(values, [(0, 0), (before, after)] + [(0, 0)] * (values.ndim - 2))
    return sum(padded[:, k : k + values.shape[1]] for k in range(before + after + 1))


def local_response_norm(x, dy, size, alpha, beta, k, precision: Precision) -> Bounded:
    """y and the gradient of x; channels on axis 1."""
    x, dy, alpha, beta = np.asarray(x).astype(Wide), np.asarray(dy).astype(Wide), Wide(alpha), Wide(beta)
    before, after = size // 2, (size - 1) // 2
    base = k + alpha / size * window_sum(x * x, before, after)
    inner = dy * x * base ** (-beta - 1)
    direct, factor = dy * base**-beta, 2 * alpha * beta / size * x
    dx = direct - factor * window_sum(inner, after, before)
    # A power is off by the exponent times the logarithm of its base.
    few = precision.eps * (16 + 4 * np.abs(np.log(base)))
    most = np.max(np.where(np.isfinite(few), few, 0))
    of_dx = np.abs(direct) + np.abs(factor) * window_sum(np.abs(inner), after, before)
    y = x * base**-beta
    return [(y, few * np.abs(y)), (dx, most * (size + 1) * of_dx)]


# --- convolution --------------------------------------------------------------------------------------------------


def patches(x: np.ndarray, kernel: int) -> np.ndarray:
    """(N, I * kernel², H * W): what each output of a convolution with padding "same" and stride 1 sees."""
    n, channels, height, width = x.shape
    low, high = (kernel - 1) // 2, kernel // 2
    padded = np.pad(x, ((0, 0), (0, 0), (low, high), (low, high)))
    seen = [padded[:, :, i : i + height, j : j + width] for i in range(kernel) for j in range(kernel)]
    return np.stack(seen, 2).reshape(n, channels * kernel * kernel, height * width)


def unpatched(cotangent: np.ndarray, shape: tuple[int, ...], kernel: int) -> np.ndarray:
    """The transpose of `patches`."""
    n, channels, height, width = shape
    low, high = (kernel - 1) // 2, kernel // 2
    parts = cotangent.reshape(n, channels, kernel, kernel, height, width)
    padded = np.zeros((n, channels, height + low + high, width + low + high), cotangent.dtype)
    for i in range(kernel):
        for j in range(kernel):
            padded[:, :, i : i + height, j : j + width] += parts[:, :, i, j]
    return padded[:, :, low : low + height, low : low + width]


def conv_bn(arrays, dy, epsilon: float, is_folded: bool, precision: Precision) -> Bounded:
    """y, and the gradients of x, weight, bias, gamma, beta, mean and variance; NCHW, no activation."""
    x, weight, bias, gamma, beta, mean, variance, dy = (np.asarray(a).astype(Wide) for a in (*arrays, dy))
    features, kernel = weight.shape[0], weight.shape[-1]
    seen, rows = patches(x, kernel), weight.reshape(features, -1)
    bias, gamma, beta, mean, variance = (one[:, None] for one in (bias, gamma, beta, mean, variance))
    dz = dy.reshape(len(x), features, -1)
    r = 1 / np.sqrt(variance + Wide(epsilon))
    s, c = gamma * r, rows @ seen
    h = (c + bias - mean) * r
    products = np.abs(rows) @ np.abs(seen)
    eps, u = precision.eps, precision.u
    terms = eps * (8 + 2 * np.sqrt(seen.shape[1]))
    # Of h: the sum of the products; what is stored of them, and of them with the bias, in x's dtype. A folded weight
    # is rounded too, and what is added to it is the bias and the mean, scaled.
    size = (np.abs(bias) + np.abs(mean)) * r
    of_h = terms * products * r + 4 * eps * size + u * (np.abs(c) + np.abs(c + bias)) * r
    of_z = (of_h + 8 * eps * np.abs(h)) * np.abs(gamma) + 8 * eps * np.abs(beta)
    if is_folded:
        shift = (np.abs(bias) + np.abs(mean)) * np.abs(s) + np.abs(beta)
        z = h * gamma + beta
        of_z = (terms + u) * products * np.abs(s) + (8 * eps + u) * shift + u * (np.abs(c * s) + np.abs(z))
    # What is stored between two operations, and so may be infinite in half precision.
    stored = (c * s, h * gamma + beta, np.broadcast_to(shift, c.shape)) if is_folded else (c, c + bias)
    of_z = np.where(np.any([np.abs(one) > precision.largest for one in stored], 0), np.inf, of_z)
    many = eps * (8 + 2 * np.sqrt(dz.size / features))
    total, spread = (lambda a: a.sum((0, 2))), np.abs(dz)
    # What is handed on to the convolution's gradients is stored in x's dtype, and a folded weight's gradient too.
    dc, of_dc = dz * s, (8 * eps + 2 * u) * np.abs(dz * s)
    back = (many + terms) * np.abs(dc) + of_dc
    dx = unpatched(np.einsum("ok,nop->nkp", rows, dc), x.shape, kernel)
    of_dx = unpatched(np.einsum("ok,nop->nkp", np.abs(rows), back), x.shape, kernel)
    dw = np.einsum("nop,nkp->ok", dc, seen).reshape(weight.shape)
    of_dw = (np.einsum("nop,nkp->ok", back, np.abs(seen))).reshape(weight.shape)
    of_sum = many * np.abs(h) + of_h
    if is_folded:  # by way of the folded weight and bias
        of_sum = (terms + many + 2 * u) * products * r + many * size
        of_sum = of_sum + precision.smallest * np.abs(rows).sum(1)[:, None] * r
        of_dw = of_dw + (precision.smallest * np.abs(s)).reshape(-1, 1, 1, 1)
        # The folded weight's gradient is stored in x's dtype, where it may be infinite.
        folded_dw = np.einsum("nop,nkp->ok", dz, seen)
        lost = np.abs(folded_dw) > precision.largest
        of_dw = np.where(lost.reshape(weight.shape), np.inf, of_dw)
        of_sum = np.where(lost.any(1)[:, None], np.inf, of_sum)
    of_sum = np.where(np.isinf(of_z), np.inf, of_sum)
    return [
        ((h * gamma + beta).reshape(dy.shape), of_z.reshape(dy.shape)),
        (dx, of_dx),
        (dw, of_dw),
        (total(dz * s), total((many + 2 * u) * spread * np.abs(s))),
        (total(dz * h), total(spread * of_sum)),
        (total(dz), total(many * spread)),
        (total(-dz * s), total(many * spread * np.abs(s))),
        (total(-dz * gamma * h) * np.square(r[:, 0]) / 2, total(spread * np.abs(gamma) * of_sum) * np.square(r[:, 0])),
    ]
