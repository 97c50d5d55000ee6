"""Layer norm and RMS norm forward in Mosaic GPU: a row lies in shared memory while it is looked at three times."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from normbench.jax_compat.mosaic import (
    mosaic_await,
    mosaic_await_sent,
    mosaic_barrier,
    mosaic_call,
    mosaic_fetch,
    mosaic_program,
    mosaic_send,
    mosaic_shared,
    mosaic_slice,
)
from normbench.kernels.common.form import PLAIN, Form
from normbench.kernels.pallas.cost import cost
from normbench.kernels.pallas.mosaic.activations import activate
from normbench.kernels.pallas.mosaic.limits import RESERVED_BYTES, MosaicConfig, forward_config


@dataclass(frozen=True, slots=True)
class MosaicPlan:
    """What is computed: h = (w - mean) r with w = x or x + residual, and y = act(h * gamma + beta).

    Attributes:
      name: of the kernels.
      centered: False for RMS norm, whose mean is 0.
      shifted: whether there is a beta.
      epsilon: r = 1 / sqrt(E[(w - mean)²] + epsilon).
      activation: of `ACTIVATIONS`.
      output_dtype: of y.
      given: whether mean and variance are parameters, behind gamma and beta (of `mosaic_any_rows` alone).
      form: what is done with h before and after it is scaled, in RMS norm.
    """

    name: str
    centered: bool
    shifted: bool
    epsilon: float
    activation: str
    output_dtype: str
    given: bool = False
    form: Form = PLAIN


def forward_shared_bytes(columns: int, dtype: str, param_dtype: str, plan: MosaicPlan, residual: bool) -> int:
    """Shared memory of a forward program."""
    of_x, of_parameter = jnp.dtype(dtype).itemsize, jnp.dtype(param_dtype).itemsize
    of_y = 0 if plan.output_dtype == dtype else jnp.dtype(plan.output_dtype).itemsize
    return columns * (of_x * (1 + residual) + of_y + of_parameter * (1 + plan.shifted)) + RESERVED_BYTES


def forward(x: jax.Array, residual: jax.Array | None, parameters: tuple, plan: MosaicPlan, saves: bool) -> tuple:
    """Returns (y, z, mean, r): z = x + residual or None, mean None where not centered; x is (rows, columns).

    Without `saves` there are no mean and no r: of short rows they are a part of the traffic that can be measured.
    """
    config = forward_config(*x.shape)
    block = (config.lines, config.line)
    dtype = jnp.dtype(plan.output_dtype)
    whole = (config.rows, *block)
    out = (
        jax.ShapeDtypeStruct(whole, dtype),
        *(() if residual is None else (jax.ShapeDtypeStruct(whole, x.dtype),)),
        *(jax.ShapeDtypeStruct((config.rows,), jnp.float32),) * (saves * (1 + plan.centered)),
    )
    tensors = (x,) if residual is None else (x, residual)
    scratch = (
        *(mosaic_shared(block, x.dtype) for _ in tensors),
        *(mosaic_shared(block, parameter.dtype) for parameter in parameters),
        *(() if dtype == x.dtype else (mosaic_shared(block, dtype),)),
        mosaic_barrier(len(tensors) + len(parameters)),
    )
    found = mosaic_call(
        partial(_kernel, plan=plan, config=config, tensors=len(tensors), parameters=len(parameters), saves=saves),
        grid=config.programs,
        out=out,
        scratch=scratch,
        name=f"{plan.name}_forward",
        cost=cost((*tensors, *parameters), out),
    )(*(array.reshape(whole) for array in tensors), *(array.reshape(block) for array in parameters))
    y, *others = found
    z = None if residual is None else others.pop(0).reshape(x.shape)
    mean = others.pop(0) if saves and plan.centered else None
    return y.reshape(x.shape), z, mean, others.pop(0) if saves else None


def _kernel(*refs: Any, plan: MosaicPlan, config: MosaicConfig, tensors: int, parameters: int, saves: bool) -> None:
    inputs, refs = refs[: tensors + parameters], refs[tensors + parameters :]
    written = tensors + saves * (1 + plan.centered)
    outputs, scratch = refs[:written], refs[written:]
    *shared, barrier = scratch
    row = mosaic_program()
    for ref, target in zip(inputs[:tensors], shared, strict=False):
        mosaic_fetch(ref.at[row], target, barrier)
    for ref, target in zip(inputs[tensors:], shared[tensors:], strict=False):
        mosaic_fetch(ref, target, barrier)
    mosaic_await(barrier)
    w, vectors = shared[0], shared[tensors : tensors + parameters]
    # The output takes the place of what is not needed any more, where their dtypes are the same.
    y = shared[tensors + parameters] if len(shared) > tensors + parameters else shared[tensors - 1]
    if tensors == 2:
        _add(w, shared[1], config)
    near: Any = 0.0
    offset: Any = 0.0
    if plan.centered:
        near, offset, variance = moments(config, lambda at: w[at].astype(jnp.float32))
    else:
        variance = sum_over(config, lambda at: _square(w[at].astype(jnp.float32))) / config.columns
    r = jax.lax.rsqrt(variance + plan.epsilon)

    def write(index, carry):
        at = chunk(index, config)
        h = (w[at].astype(jnp.float32) - near - offset) * r
        y[at] = activate(affine(h, vectors, at, plan.form), plan.activation).astype(y.dtype)
        return carry

    jax.lax.fori_loop(0, config.chunks, write, 0)
    if saves:
        outputs[-1][row] = r
    if saves and plan.centered:
        outputs[-2][row] = near + offset
    sent = [(y, outputs[0].at[row])]
    mosaic_send(*sent, *([(w, outputs[1].at[row])] if tensors == 2 else []))
    mosaic_await_sent()


def _add(w, residual, config: MosaicConfig) -> None:
    def step(index, carry):
        at = chunk(index, config)
        w[at] = (w[at].astype(jnp.float32) + residual[at].astype(jnp.float32)).astype(w.dtype)
        return carry

    jax.lax.fori_loop(0, config.chunks, step, 0)


def _square(value: jax.Array) -> jax.Array:
    return value * value


def affine(h: jax.Array, vectors: Any, at: Any, form: Form) -> jax.Array:
    """h * gamma + beta of one chunk; `vectors` lie in shared memory."""
    z = form.rounded_in_mosaic(h) * form.scale(vectors[0][at].astype(jnp.float32))
    return z + vectors[1][at].astype(jnp.float32) if len(vectors) == 2 else z


def chunk(index: Any, config: MosaicConfig) -> tuple:
    """Where the chunk of a row lies."""
    return (mosaic_slice(index * config.chunk_lines, config.chunk_lines),)


def sum_over(config: MosaicConfig, term: Any) -> jax.Array:
    """The sum over a row: each thread adds up its own elements, and then the threads do."""
    zero = jnp.zeros((config.chunk_lines, config.line), jnp.float32)
    return jnp.sum(jax.lax.fori_loop(0, config.chunks, lambda index, c: c + term(chunk(index, config)), zero))


def moments(config: MosaicConfig, values: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The mean in two parts, one rounded and what that leaves of the other values, and the variance.

    (w - near - offset) then has the error of one rounding, however large the mean is beside the deviation.

    Args:
      values: of a chunk, in float32.
    """
    near = sum_over(config, values) / config.columns

    def step(index, carry):
        centred = values(chunk(index, config)) - near
        return carry[0] + centred, carry[1] + centred * centred

    zero = jnp.zeros((config.chunk_lines, config.line), jnp.float32)
    left, squares = jax.lax.fori_loop(0, config.chunks, step, (zero, zero))
    offset = jnp.sum(left) / config.columns
    return near, offset, jnp.maximum(jnp.sum(squares) / config.columns - offset * offset, 0.0)
