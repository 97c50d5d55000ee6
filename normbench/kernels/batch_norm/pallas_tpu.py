"""One fused kernel in Pallas for TPUs: x is read once and y is written once, the parameters included."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from normbench.errors import UserError
from normbench.kernels.batch_norm.arguments import checked
from normbench.kernels.common.second_order import plain_given, twice_differentiable
from normbench.kernels.common.targets import not_for_tpu
from normbench.kernels.contexts import CAST_DTYPES
from normbench.kernels.pallas.left_to_xla import INFERENCE, moves_more
from normbench.kernels.pallas.tpu import given
from normbench.kernels.pallas.tpu.at_hand import by_passes, checked_cotangents
from normbench.kernels.pallas.tpu.columns import ColumnsPlan
from normbench.kernels.pallas.tpu.limits import dtype_refusal
from normbench.kernels.pallas.tpu.pieces import copied, pieces_of, view_of
from normbench.kernels.problem import Problem

NAMES = ("x", "gamma", "beta", "mean", "variance", "y")


def pallas_tpu(
    x: jax.Array,
    gamma: jax.Array,
    beta: jax.Array,
    mean: jax.Array,
    variance: jax.Array,
    epsilon: float = 1e-5,
    *,
    channel_axis: int = 1,
    activation: str = "none",
    output_dtype: str | None = None,
    cotangent: jax.Array | None = None,
) -> Any:
    """As `naive`, of float32 or bfloat16; `output_dtype` is that of y, x's where it is None. With a `cotangent`, of y,
    (y, gradients of x and the parameters), for which x is read once.

    The mean is subtracted before scaling, which avoids the cancellation of the folded form. A gradient reads x and dy
    once: x and the parameters are saved. On a CPU the kernel is interpreted.

    Raises:
      UserError: as `naive`, and for another dtype, or a cotangent that is not as y.
    """
    a = checked(x, gamma, beta, mean, variance, epsilon, channel_axis, activation)
    dtype = jnp.dtype(output_dtype or a.x.dtype).name
    if refused := dtype_refusal(NAMES, (*(array.dtype.name for array in a[:5]), dtype)):
        raise UserError(refused)
    plan = ColumnsPlan("batch_norm", 1, a.epsilon, activation, dtype)
    if cotangent is not None:
        (cotangent,) = checked_cotangents(cotangent, a.x, (dtype,))
        return _both(tuple(a[:5]), cotangent, (plan, a.channel_axis))
    if a.x.size == 0:
        return a.x.astype(dtype) + jnp.sum(sum(a[1:5]) * 0).astype(dtype)
    return _differentiable(tuple(a[:5]), (plan, a.channel_axis))


def _both(arrays, dy, asked):
    x, *parameters = arrays
    plan, axis = asked
    if x.size == 0:
        options = {"channel_axis": axis, "activation": plan.activation, "output_dtype": plan.output_dtype}
        return by_passes(partial(pallas_tpu, epsilon=plan.epsilon, **options), arrays, dy)
    view, cut = _cut(x, (x.dtype.name, dy.dtype.name), axis)
    y, dx, *gradients = given.both(view.of(x), parameters, view.of(dy), plan, cut)
    gradients = (g.astype(p.dtype) for g, p in zip(gradients, parameters, strict=True))
    return view.back(y, x.shape), (view.back(dx, x.shape), *gradients)


def unsupported(problem: Problem, target: str) -> str | None:
    """The reason why the kernel cannot compute `problem` on `target`, or None."""
    if refused := not_for_tpu(target):
        return refused
    dtype = CAST_DTYPES[problem.dtype] if problem.context == "cast" else problem.dtype
    if refused := dtype_refusal(NAMES, (problem.dtype, *(problem.param_dtype,) * 4, dtype)):
        return refused
    if 0 in problem.shape:
        return None
    if reason := copied(problem.shape, problem.channel_axis, problem.dtype, whole=True):
        return reason
    return moves_more(problem, 2, 3, INFERENCE) if problem.context == "residual" else None


def _cut(x, dtypes, axis):
    view = view_of(x.shape, axis, x.dtype.name, whole=True)
    return view, pieces_of(view, 1, dtypes, 1)


def _forward(arrays, asked, saves):
    """`asked` is the plan, and the axis of the channels."""
    x, *parameters = arrays
    view, cut = _cut(x, (x.dtype.name,), asked[1])
    y = given.forward(view.of(x), parameters, asked[0], cut)
    return view.back(y, x.shape), () if saves else None


def _backward(arrays, saved, dy, asked):
    x, *parameters = arrays
    view, cut = _cut(x, (x.dtype.name, dy.dtype.name), asked[1])
    dx, *gradients = given.backward(view.of(x), parameters, view.of(dy), asked[0], cut)
    return view.back(dx, x.shape), *(g.astype(p.dtype) for g, p in zip(gradients, parameters, strict=True))


def _plain(arrays, asked):
    x, *parameters = arrays
    plan, axis = asked
    shape = tuple(size if other == axis else 1 for other, size in enumerate(x.shape))
    return plain_given(x, tuple(parameters), shape, plan.epsilon, plan.activation).astype(plan.output_dtype)


_differentiable = twice_differentiable(_forward, _backward, _plain)
