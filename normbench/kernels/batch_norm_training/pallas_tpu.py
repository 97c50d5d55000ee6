"""One fused kernel in Pallas for TPUs: channels that fit VMEM, of all images, are read once and written once."""

from typing import Any

import jax
import jax.numpy as jnp

from normbench.errors import UserError
from normbench.kernels.batch_norm_training.arguments import checked
from normbench.kernels.common.second_order import (
    none_for_running,
    of_first,
    plain_norm,
    twice_differentiable,
    without_running,
)
from normbench.kernels.common.targets import not_for_tpu
from normbench.kernels.contexts import CAST_DTYPES
from normbench.kernels.pallas.tpu import columns, columns_both
from normbench.kernels.pallas.tpu.at_hand import by_passes, checked_cotangents
from normbench.kernels.pallas.tpu.columns import ColumnsPlan
from normbench.kernels.pallas.tpu.limits import added_outside, dtype_refusal, streamed
from normbench.kernels.pallas.tpu.pieces import copied, pieces_of, view_of
from normbench.kernels.problem import Problem

NAMES = ("x", "gamma", "beta", "running_mean", "running_variance", "y")


def pallas_tpu(
    x: jax.Array,
    gamma: jax.Array,
    beta: jax.Array,
    running_mean: jax.Array,
    running_variance: jax.Array,
    epsilon: float = 1e-5,
    *,
    momentum: float = 0.1,
    channel_axis: int = 1,
    activation: str = "none",
    output_dtype: str | None = None,
    cotangent: jax.Array | None = None,
) -> Any:
    """As `naive`, of float32 or bfloat16; `output_dtype` is that of y, x's where it is None. With a `cotangent`, of y,
    (outputs, gradients of x, gamma and beta), for which x is read once.

    Mean and squares are merged block by block, around a pivot of the first one; channels that VMEM does not hold, 128
    at a time, are read twice. Gradients by hand: x, and mean and 1 / deviation in float32 are saved. On a CPU the
    kernel is interpreted.

    Raises:
      UserError: as `naive`, and for another dtype, or a cotangent that is not as y.
    """
    a = checked(x, gamma, beta, running_mean, running_variance, epsilon, momentum, channel_axis, activation)
    output_dtype = jnp.dtype(output_dtype or a.x.dtype).name
    plan = ColumnsPlan("batch_norm_training", 1, a.epsilon, activation, output_dtype, a.momentum)
    if refused := dtype_refusal(NAMES, (*(array.dtype.name for array in a[:5]), output_dtype)):
        raise UserError(refused)
    if cotangent is not None:
        (cotangent,) = checked_cotangents(cotangent, a.x, (output_dtype,))
        return _both(a, cotangent, plan, channel_axis % a.x.ndim)
    if a.x.size == 0:
        zero = jnp.sum(a.gamma * 0 + a.beta * 0).astype(output_dtype)
        return a.updated(a.x.astype(output_dtype) + zero, a.running_mean, a.running_variance)
    running = jax.lax.stop_gradient((a.running_mean, a.running_variance))
    y, *moved = _differentiable((a.x, a.gamma, a.beta, running), (plan, channel_axis % a.x.ndim))
    return y, *map(jax.lax.stop_gradient, moved)


def _both(a, dy, plan, axis):
    if a.x.size == 0 or not (held := _cut(a.x, (a.x.dtype.name, dy.dtype.name), axis))[1].held:
        options = {"momentum": plan.momentum, "channel_axis": axis, "activation": plan.activation}

        def passes(x, gamma, beta):
            running = a.running_mean, a.running_variance
            return pallas_tpu(x, gamma, beta, *running, plan.epsilon, **options, output_dtype=plan.output_dtype)

        return by_passes(passes, a[:3], dy, statistics=True)
    view, cut = held
    running = a.running_mean, a.running_variance
    y, dx, dgamma, dbeta, *moved = columns_both.both(view.of(a.x), (a.gamma, a.beta), running, view.of(dy), plan, cut)
    moved = (new.astype(old.dtype) for new, old in zip(moved, running, strict=True))
    gradients = view.back(dx, a.x.shape), dgamma.astype(a.gamma.dtype), dbeta.astype(a.beta.dtype)
    return (view.back(y, a.x.shape), *moved), gradients


def unsupported(problem: Problem, target: str) -> str | None:
    """The reason why the kernels cannot compute `problem` on `target`, or None."""
    if refused := not_for_tpu(target):
        return refused
    dtype = CAST_DTYPES[problem.dtype] if problem.context == "cast" else problem.dtype
    if refused := dtype_refusal(NAMES, (problem.dtype, *(problem.param_dtype,) * 4, dtype)):
        return refused
    if 0 in problem.shape:
        return None
    view = view_of(problem.shape, problem.channel_axis, problem.dtype, whole=True)
    cuts = {"forward": pieces_of(view, 1, (problem.dtype,), 2)}
    cuts["backward"] = pieces_of(view, 1, (problem.dtype, dtype), 2)
    if reason := copied(problem.shape, problem.channel_axis, problem.dtype, whole=True):
        return reason
    if problem.context == "residual" and (reason := added_outside(problem.shape, problem.dtype, target)):
        return reason
    return streamed(problem.pass_, cuts)


def _cut(x, dtypes, axis):
    view = view_of(x.shape, axis, x.dtype.name, whole=True)
    return view, pieces_of(view, 1, dtypes, 2)


def _forward(arrays, asked, saves):
    """`asked` is the plan, and the axis of the channels."""
    x, gamma, beta, running = arrays
    plan, axis = asked
    view, cut = _cut(x, (x.dtype.name,), axis)
    y, *others = columns.forward(view.of(x), (gamma, beta), running, plan, cut, saves)
    moved = (new.astype(old.dtype) for new, old in zip(others[-2:], running, strict=True))
    return (view.back(y, x.shape), *moved), tuple(others[:-2]) if saves else None


def _backward(arrays, saved, dy, asked):
    x, *parameters = arrays
    plan, axis = asked
    view, cut = _cut(x, (x.dtype.name, dy.dtype.name), axis)
    dx, *gradients = columns.backward(view.of(x), parameters, saved[0], view.of(dy), plan, cut)
    return view.back(dx, x.shape), *(g.astype(p.dtype) for g, p in zip(gradients, parameters, strict=True))


def _plain(arrays, asked):
    x, gamma, beta = arrays
    plan, axis = asked
    lined = tuple(size if other == axis else 1 for other, size in enumerate(x.shape))
    axes = tuple(other for other in range(x.ndim) if other != axis)
    gamma, beta = gamma.reshape(lined), beta.reshape(lined)
    return plain_norm(x, gamma, beta, axes, plan.epsilon, plan.activation, plan.output_dtype)


_differentiable = twice_differentiable(
    _forward, _backward, _plain, keep=without_running, used=of_first, expand=none_for_running
)
