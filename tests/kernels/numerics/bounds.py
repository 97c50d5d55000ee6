"""What each variant declares that it holds, as a bound of the error of h = (x - mean) / deviation.

| class   | error of h, in units of eps                                                               |
|---------|-------------------------------------------------------------------------------------------|
| holds   | that of one rounding of h, whatever the mean                                              |
| rounded | |mean| / deviation: the mean is one rounded number                                        |
| pivot   | |p - mean| / deviation, and its square in the variance; p as the variant says             |
| cancels | (mean / deviation)² in the variance                                                       |
"""

import jax.numpy as jnp
import numpy as np

from tests.kernels.numerics.extended import Exact, Layout

FORWARD = {
    "naive": "rounded",
    "two_pass": "rounded",
    "welford": "rounded",
    "one_pass": "cancels",
    "jax_nn": "cancels",
    "flax": "cancels",
    "pivoted": "pivot",
    "custom_vjp": "pivot",
    "pallas_triton": "holds",
    "pallas_mosaic": "holds",
    "pallas_tpu": "holds",
    "native": "holds",
    "aten": "holds",
}
BACKWARD = FORWARD | {"pallas_triton": "rounded", "pallas_mosaic": "rounded", "pallas_tpu": "rounded"}
"""The kernels save the mean as one number in float32."""
ROUNDS_BETWEEN = ("flax",)
"""Other libraries that round to x's dtype what they have normalized, scaled and shifted, and in the gradients each
product and, of parameters of that dtype, each sum."""
LEAST = {False: np.finfo(np.float32).tiny, True: np.finfo(np.float64).tiny}
"""What may be subnormal, and so 0, in float32, and in float64."""
LARGEST_DEVIATION = {"jax_nn": 1e12, "flax": 1e12}
"""Of other libraries' gradients in float32: they make the third power of 1 / deviation."""


def errors_of_h(kind: str, exact: Exact, pivot: np.ndarray | None, eps: float) -> np.ndarray:
    """By group, (groups, 1), relative to 1 + the largest |h|; infinite where nothing is promised."""
    if kind == "holds":
        return np.full_like(exact.r, eps)
    if kind == "rounded":
        return eps * (1 + exact.mean_ratio)
    ratio = exact.mean_ratio
    if kind == "pivot":
        ratio = exact.first_ratio if pivot is None else np.abs(exact.mean - pivot[:, None]) * exact.r
    lost = eps * np.square(ratio)
    return np.where(lost > 0.05, np.inf, eps + eps * ratio + lost)


def check(name: str, found, right, bound) -> None:
    """Within the bound, and the rounding to what the dtype of `found` holds, where what is right is finite; and no
    number where it is none. Nothing is promised of what the dtype does not hold."""
    holds = jnp.finfo(found.dtype)
    found, right = np.asarray(found).astype(np.longdouble), np.asarray(right)
    if holds.bits < 32:
        bound = bound + float(holds.eps) / 2 * np.abs(right) + float(holds.smallest_subnormal)
    bound = np.where(np.abs(right) + bound > float(holds.max), np.inf, bound)
    bound = np.broadcast_to(bound, right.shape)
    held, finite = np.isfinite(bound), np.isfinite(right)
    assert not np.isfinite(found[~finite & held]).any(), f"{name}: finite where there is no number"
    error = np.abs(found - right)[finite & held]
    worst = bound[finite & held]
    assert (error <= worst).all(), f"{name}: error {np.max(error - worst):.3g} beyond its bound; {found}, {right}"


def check_all(layout: Layout, variant: str, exact: Exact, inputs, outputs, eps: float, pivot=None) -> None:
    """y and the gradients of a variant, which were computed with `eps`, and rounded with it."""
    _, gamma, beta, dy = (np.asarray(array).astype(np.longdouble) for array in inputs)
    gamma, beta = layout.along(gamma), layout.along(beta)
    y, dx, dgamma, dbeta = outputs
    terms, least = layout.terms, LEAST[eps < 1e-10]
    factor = 8 + 2 * np.sqrt(terms)
    # Roundings to x's dtype between the operations.
    between = float(jnp.finfo(y.dtype).eps) * (variant in ROUNDS_BETWEEN and jnp.finfo(y.dtype).bits < 32)
    with np.errstate(all="ignore"):
        peak = 1 + exact.largest
        of_h = errors_of_h(FORWARD[variant], exact, pivot, eps) * peak * factor
        bound = layout.back(np.broadcast_to(of_h, exact.h.shape)) * np.abs(gamma) + 4 * eps * np.abs(beta)
        rounded = between * (np.abs(layout.back(exact.h) * gamma) + np.abs(exact.y))
        check(f"{variant}: y", y, exact.y, bound + least + rounded)
        backward = errors_of_h(BACKWARD[variant], exact, pivot, eps) * factor
        backward = backward + between * factor
        # Of what it stores between, float16 does not hold everything.
        stored = np.abs(layout.groups(dy * gamma)).max(1)[:, None] * np.square(1 + exact.r) * np.square(peak)
        backward = np.where((between > 0) & (stored * terms > float(jnp.finfo(y.dtype).max)), np.inf, backward)
        backward = np.where(exact.r < 1 / LARGEST_DEVIATION.get(variant, np.inf), np.inf, backward)
        g = np.abs(layout.groups(dy * gamma)).max(1)[:, None]
        of_dx = backward * exact.r * g * np.square(peak) + least * (1 + exact.r)
        check(f"{variant}: dx", dx, exact.gradients[0], layout.back(np.broadcast_to(of_dx, exact.h.shape)))
        if np.isfinite(exact.h).all():
            of_h = layout.back(np.broadcast_to(backward * peak, exact.h.shape))
            check(f"{variant}: dgamma", dgamma, exact.gradients[1], layout.total(np.abs(dy) * of_h) + least)
        check(
            f"{variant}: dbeta", dbeta, exact.gradients[2], factor * (eps + between) * layout.total(np.abs(dy)) + least
        )
