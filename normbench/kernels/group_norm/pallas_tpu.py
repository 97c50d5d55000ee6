"""One fused kernel in Pallas for TPUs: each image that fits VMEM is read once and written once."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from normbench.errors import UserError
from normbench.kernels.common.second_order import plain_norm, twice_differentiable
from normbench.kernels.common.targets import not_for_tpu
from normbench.kernels.contexts import CAST_DTYPES
from normbench.kernels.group_norm.arguments import checked
from normbench.kernels.pallas.tpu import columns, columns_both
from normbench.kernels.pallas.tpu.at_hand import by_passes, checked_cotangents
from normbench.kernels.pallas.tpu.columns import ColumnsPlan
from normbench.kernels.pallas.tpu.limits import added_outside, dtype_refusal, streamed
from normbench.kernels.pallas.tpu.pieces import copied, pieces_of, view_of
from normbench.kernels.problem import Problem


def pallas_tpu(
    x: jax.Array,
    gamma: jax.Array,
    beta: jax.Array,
    epsilon: float = 1e-5,
    *,
    groups: int = 32,
    channel_axis: int = 1,
    activation: str = "none",
    output_dtype: str | None = None,
    cotangent: jax.Array | None = None,
) -> Any:
    """As `naive`, of float32 or bfloat16; `output_dtype` is that of y, x's where it is None. With a `cotangent`, of y,
    (y, gradients of x, gamma and beta), for which x is read once.

    Mean and squares are merged block by block, around a pivot of the first one; an image that VMEM does not hold is
    read twice. Gradients by hand: x, and mean and 1 / deviation in float32 are saved. On a CPU the kernel is
    interpreted.

    Raises:
      UserError: as `naive`, and for another dtype, or a cotangent that is not as y.
    """
    a = checked(x, gamma, beta, epsilon, groups, channel_axis, activation)
    each = a.gamma.size // groups
    plan = ColumnsPlan("group_norm", each, a.epsilon, activation, jnp.dtype(output_dtype or a.x.dtype).name)
    dtypes = (a.x.dtype.name, a.gamma.dtype.name, a.beta.dtype.name, plan.output_dtype)
    if refused := dtype_refusal(("x", "gamma", "beta", "y"), dtypes):
        raise UserError(refused)
    if cotangent is not None:
        (cotangent,) = checked_cotangents(cotangent, a.x, (plan.output_dtype,))
        return _both((a.x, a.gamma, a.beta), cotangent, (plan, channel_axis % a.x.ndim))
    if a.x.size == 0:
        return a.x.astype(plan.output_dtype) + jnp.sum(a.gamma * 0 + a.beta * 0).astype(plan.output_dtype)
    return _differentiable((a.x, a.gamma, a.beta), (plan, channel_axis % a.x.ndim))


def _both(arrays, dy, asked):
    x, *parameters = arrays
    plan, axis = asked
    if x.size == 0 or not (held := _cut(x, (x.dtype.name, dy.dtype.name), asked))[1].held:
        options = {"groups": x.shape[axis] // plan.each, "channel_axis": axis, "activation": plan.activation}
        passes = partial(pallas_tpu, epsilon=plan.epsilon, **options, output_dtype=plan.output_dtype)
        return by_passes(passes, arrays, dy)
    view, cut = held
    y, dx, *gradients = columns_both.both(view.of(x), parameters, (), view.of(dy), plan, cut)
    gradients = (g.astype(p.dtype) for g, p in zip(gradients, parameters, strict=True))
    return view.back(y, x.shape), (view.back(dx, x.shape), *gradients)


def unsupported(problem: Problem, target: str) -> str | None:
    """The reason why the kernel cannot compute `problem`, of group norm or instance norm, on `target`, or None."""
    if refused := not_for_tpu(target):
        return refused
    dtype = CAST_DTYPES[problem.dtype] if problem.context == "cast" else problem.dtype
    dtypes = (problem.dtype, problem.param_dtype, problem.param_dtype, dtype)
    if refused := dtype_refusal(("x", "gamma", "beta", "y"), dtypes):
        return refused
    if 0 in problem.shape:
        return None
    groups = problem.option("groups", 32) if problem.operator == "group_norm" else problem.channels
    each = problem.channels // groups
    view = view_of(problem.shape, problem.channel_axis, problem.dtype, whole=False)
    cuts = {"forward": pieces_of(view, each, (problem.dtype,), 2)}
    cuts["backward"] = pieces_of(view, each, (problem.dtype, dtype), 2)
    if reason := copied(problem.shape, problem.channel_axis, problem.dtype, whole=False):
        return reason
    if problem.context == "residual" and (reason := added_outside(problem.shape, problem.dtype, target)):
        return reason
    return streamed(problem.pass_, cuts)


def _cut(x, dtypes, asked):
    """`asked` is the plan, and the axis of the channels."""
    plan, axis = asked
    view = view_of(x.shape, axis, x.dtype.name, whole=False)
    return view, pieces_of(view, plan.each, dtypes, 2)


def _forward(arrays, asked, saves):
    x, *parameters = arrays
    view, cut = _cut(x, (x.dtype.name,), asked)
    y, *statistics = columns.forward(view.of(x), parameters, (), asked[0], cut, saves)
    return view.back(y, x.shape), tuple(statistics) if saves else None


def _backward(arrays, saved, dy, asked):
    x, *parameters = arrays
    view, cut = _cut(x, (x.dtype.name, dy.dtype.name), asked)
    dx, *gradients = columns.backward(view.of(x), parameters, saved[0], view.of(dy), asked[0], cut)
    return view.back(dx, x.shape), *(g.astype(p.dtype) for g, p in zip(gradients, parameters, strict=True))


def _plain(arrays, asked):
    x, *parameters = arrays
    plan, axis = asked
    channels = x.shape[axis]
    split = (*x.shape[:axis], channels // plan.each, plan.each, *x.shape[axis + 1 :])
    lined = tuple(split[a] if a in (axis, axis + 1) else 1 for a in range(len(split)))
    axes = tuple(a for a in range(1, len(split)) if a != axis)
    gamma, beta = (array.reshape(lined) for array in parameters)
    y = plain_norm(x.reshape(split), gamma, beta, axes, plan.epsilon, plan.activation, plan.output_dtype)
    return y.reshape(x.shape)


_differentiable = twice_differentiable(_forward, _backward, _plain)
