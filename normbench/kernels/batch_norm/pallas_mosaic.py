"""One fused kernel in Pallas Mosaic GPU: bulk copies bring x to shared memory once and take y away once."""

import math

import jax
import jax.numpy as jnp

from normbench.errors import UserError
from normbench.kernels.batch_norm.arguments import checked
from normbench.kernels.common.second_order import plain_given, twice_differentiable
from normbench.kernels.common.targets import not_for_mosaic
from normbench.kernels.contexts import CAST_DTYPES, activation_of
from normbench.kernels.pallas.left_to_xla import INFERENCE, moves_more, too_few_programs
from normbench.kernels.pallas.mosaic import rows_given, slabs
from normbench.kernels.pallas.mosaic.plan import WARPGROUP, Plan, dtype_refusal
from normbench.kernels.pallas.mosaic.row_norm import LEAST_COLUMNS
from normbench.kernels.pallas.mosaic.rows import Rows
from normbench.kernels.pallas.mosaic.rows_given import given_rows
from normbench.kernels.pallas.mosaic.slabs import LEAST_TILE_POSITIONS, Slabs, element_bytes, given_slabs_of
from normbench.kernels.problem import Problem


def pallas_mosaic(
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
) -> jax.Array:
    """y = act((x - mean) * (gamma / sqrt(variance + epsilon)) + beta) in one launch.

    Arguments as for `naive`, of float32, bfloat16 or float16; `output_dtype` is that of y, x's where it is None. A
    gradient reads x and dy once: x and the parameters are saved. On a CPU the kernels are interpreted, with races
    looked for.

    Raises:
      UserError: as `naive`, and for another dtype.
    """
    a = checked(x, gamma, beta, mean, variance, epsilon, channel_axis, activation)
    plan = _plan(a.epsilon, activation, jnp.dtype(output_dtype or a.x.dtype).name)
    if a.x.size == 0:
        return a.x.astype(plan.output_dtype) + jnp.sum(sum(a[1:5]) * 0).astype(plan.output_dtype)
    x = a.x.reshape(_view(a.x.shape, a.channel_axis))
    refused = _refusal(x.shape, _dtypes(x, a[1:5]), plan, backward=False)
    if refused:
        raise UserError(refused)
    return _differentiable((x, *a[1:5]), plan).reshape(a.x.shape)


def unsupported(problem: Problem, target: str) -> str | None:
    """The reason why the kernel cannot compute `problem` on `target`, or None."""
    if refused := not_for_mosaic(target):
        return refused
    asked = _asked(problem)
    return _refusal(*asked) or _too_short(*asked)


def idle(problem: Problem) -> str | None:
    """The reason why half of the device would have no program, or None: where channels come last partial sums are kept
    few."""
    view, dtypes, plan, backward = _asked(problem)
    rows = _cut(view, dtypes, plan, backward) if backward and len(view) == 2 else None
    return too_few_programs(problem, None, rows if isinstance(rows, Rows) else None)


def _asked(problem: Problem) -> tuple[tuple[int, ...], tuple[str, ...], Plan, bool]:
    """The view of x, the dtypes of x and the parameters, what is computed, and whether backward."""
    dtype = CAST_DTYPES[problem.dtype] if problem.context == "cast" else problem.dtype
    plan = _plan(problem.epsilon, activation_of(problem.context), dtype)
    view = _view(problem.shape, problem.channel_axis % len(problem.shape))
    return view, (problem.dtype, *(problem.param_dtype,) * 4), plan, problem.pass_ != "forward"


def more(problem: Problem) -> str | None:
    """The reason why XLA moves less, or None."""
    return moves_more(problem, 2, 3, INFERENCE)


def _too_short(view: tuple[int, ...], dtypes: tuple[str, ...], plan: Plan, backward: bool) -> str | None:
    """Why so few elements are left to XLA although the kernels take them."""
    if 0 in view:
        return None
    least = LEAST_TILE_POSITIONS if backward else WARPGROUP
    if len(view) == 3 and view[2] < least:
        return f"{view[2]} positions of a channel; allowed for pallas_mosaic where channels come first: {least} or more"
    if len(view) == 3 or view[1] >= LEAST_COLUMNS:
        return None
    rows = _cut(view, dtypes, plan, backward)
    if isinstance(rows, Rows) and rows.columns == view[1]:  # else a row of the kernel is several positions
        return f"{view[1]} channels; allowed for pallas_mosaic: {LEAST_COLUMNS} or more, of 128 at a time"
    return None


def _view(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """(positions, channels), or (images, channels, positions) where channels come first."""
    if axis == len(shape) - 1:
        return math.prod(shape[:-1]), shape[-1]
    return shape[0], shape[1], math.prod(shape[2:])


def _refusal(view: tuple[int, ...], dtypes: tuple[str, ...], plan: Plan, backward: bool) -> str | None:
    named = zip(("y", "x", *("a parameter",) * 4), (plan.output_dtype, *dtypes), strict=True)
    cut = dtype_refusal(named) or (None if 0 in view else _cut(view, dtypes, plan, backward))
    return cut if isinstance(cut, str) else None


def _cut(view: tuple[int, ...], dtypes: tuple[str, ...], plan: Plan, backward: bool) -> Slabs | Rows | str:
    """How the kernels share x out among programs, or why they do not."""
    if len(view) == 2:
        return given_rows(view, dtypes, plan, backward)
    images, channels, positions = view
    return given_slabs_of((images, channels, positions), element_bytes(dtypes[0], plan.output_dtype, backward))


def _plan(epsilon: float, activation: str, output_dtype: str) -> Plan:
    return Plan("batch_norm", epsilon, activation, output_dtype, given=True)


def _forward(arrays, plan, saves):
    x, *parameters = arrays
    saved = () if saves else None
    if x.ndim == 2:
        return rows_given.forward(x, tuple(parameters), plan), saved
    cut = _cut(x.shape, _dtypes(x, parameters), plan, backward=False)
    return slabs.forward(x, tuple(parameters), (), plan, cut)[0], saved


def _dtypes(x, parameters):
    return x.dtype.name, *(parameter.dtype.name for parameter in parameters)


def _backward(arrays, saved, dy, plan):
    x, *parameters = arrays
    dtypes = _dtypes(x, parameters)
    refused = _refusal(x.shape, dtypes, plan, backward=True)
    if refused:
        raise UserError(refused)
    if x.ndim == 2:
        return rows_given.backward(arrays, dy, plan)
    return slabs.backward(arrays, dy, plan, _cut(x.shape, dtypes, plan, backward=True))


def _plain(arrays, plan):
    x, *parameters = arrays
    shape = (1, -1) if x.ndim == 2 else (1, -1, 1)
    return plain_given(x, tuple(parameters), shape, plan.epsilon, plan.activation).astype(plan.output_dtype)


_differentiable = twice_differentiable(_forward, _backward, _plain)
