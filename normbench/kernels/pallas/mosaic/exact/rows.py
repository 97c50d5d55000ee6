"""Layer norm and RMS norm forward in Mosaic GPU: programs that stay, and bring the next rows while they compute one."""

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
    mosaic_when,
)
from normbench.kernels.common.form import Form
from normbench.kernels.pallas.cost import cost
from normbench.kernels.pallas.mosaic.activations import activate
from normbench.kernels.pallas.mosaic.limits import RESERVED_BYTES, MosaicConfig, Plan, staying_config


def forward_shared_bytes(columns: int, dtype: str, param_dtype: str, plan: Plan, residual: bool) -> tuple[int, int]:
    """Shared memory of a forward program: of a row with what is added to it and made of it; of the parameters."""
    of_x, of_parameter = jnp.dtype(dtype).itemsize, jnp.dtype(param_dtype).itemsize
    of_y = 0 if plan.output_dtype == dtype else jnp.dtype(plan.output_dtype).itemsize
    return columns * (of_x * (1 + residual) + of_y), columns * of_parameter * (1 + plan.shifted) + RESERVED_BYTES


def forward(x: jax.Array, residual: jax.Array | None, parameters: tuple, plan: Plan, saves: bool) -> tuple:
    """Returns (y, z, mean, r): z = x + residual or None, mean None where not centered; x is (rows, columns).

    Without `saves` there are no mean and no r: of short rows they are a part of the traffic that can be measured.
    """
    rows, columns = x.shape
    needed = forward_shared_bytes(columns, x.dtype.name, parameters[0].dtype.name, plan, residual is not None)
    config = staying_config(rows, columns, *needed)
    block = (config.lines, config.line)
    dtype = jnp.dtype(plan.output_dtype)
    whole = (config.rows, *block)
    out = (
        jax.ShapeDtypeStruct(whole, dtype),
        *(() if residual is None else (jax.ShapeDtypeStruct(whole, x.dtype),)),
        *(jax.ShapeDtypeStruct((config.rows,), jnp.float32),) * (saves * (1 + plan.centered)),
    )
    tensors = (x,) if residual is None else (x, residual)
    ring = (config.slots, *block)
    scratch = (
        *(mosaic_shared(ring, x.dtype) for _ in tensors),
        *(() if dtype == x.dtype else (mosaic_shared(ring, dtype),)),
        *(mosaic_shared(block, parameter.dtype) for parameter in parameters),
        mosaic_barrier(len(tensors), config.slots),
        mosaic_barrier(len(parameters)),
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


def _kernel(*refs: Any, plan: Plan, config: MosaicConfig, tensors: int, parameters: int, saves: bool) -> None:
    """A program that stays: the parameters are brought once, and the next rows while this one is computed."""
    inputs, refs = refs[: tensors + parameters], refs[tensors + parameters :]
    written = tensors + saves * (1 + plan.centered)
    outputs, (*shared, arrived, vectors_arrived) = refs[:written], refs[written:]
    ring, vectors = shared[: len(shared) - parameters], shared[len(shared) - parameters :]
    program, ahead = mosaic_program(), config.slots - 1
    mine = (config.rows - program + config.programs - 1) // config.programs

    def fetch(index):
        slot = index % config.slots
        for ref, target in zip(inputs[:tensors], ring, strict=False):
            mosaic_fetch(ref.at[program + index * config.programs], target.at[slot], arrived.at[slot])

    for index in range(max(ahead, 1)):
        mosaic_when(index < mine)(partial(fetch, index))
    for ref, target in zip(inputs[tensors:], vectors, strict=True):
        mosaic_fetch(ref, target, vectors_arrived)
    mosaic_await(vectors_arrived)

    def step(index, carry):
        slot, row = index % config.slots, program + index * config.programs
        mosaic_await(arrived.at[slot])
        # The output takes the place of what is not needed any more, where their dtypes are the same.
        w, y = ring[0].at[slot], ring[-1].at[slot]

        def bring_next():
            """Into the slot of the row before, once that has been taken away; with one slot, of this one."""

            @mosaic_when(index + max(ahead, 1) < mine)
            def _():
                mosaic_await_sent(read_only=True)
                fetch(index + max(ahead, 1))

        residual = ring[1].at[slot] if tensors == 2 else None
        mean, r = _one_row(w, residual, y, vectors, plan, config, bring_next if ahead else _nothing)
        if saves:
            outputs[-1][row] = r
        if saves and plan.centered:
            outputs[-2][row] = mean
        mosaic_send((y, outputs[0].at[row]), *([(w, outputs[1].at[row])] if tensors == 2 else []))
        if not ahead:
            bring_next()
        return carry

    jax.lax.fori_loop(0, mine, step, 0)
    mosaic_await_sent()


def _nothing() -> None:
    """With one slot there is nothing to bring while a row is in it."""


def _one_row(w, residual, y, vectors, plan: Plan, config: MosaicConfig, between) -> tuple[Any, jax.Array]:
    """Writes y, and z in the place of w; returns the mean and r. `between` is called once they are known."""
    if residual is not None:
        _add(w, residual, config)
    kept = [w[chunk(k, config)].astype(jnp.float32) for k in range(config.chunks)] if config.in_registers else None

    def values(index):
        return w[chunk(index, config)].astype(jnp.float32) if kept is None else kept[index]

    near: Any = 0.0
    offset: Any = 0.0
    if plan.centered:
        near, offset, variance = moments(config, values, config.in_registers)
    else:
        squares = sum_over(config, lambda index: _square(values(index)), config.in_registers)
        variance = squares / config.columns
    r = jax.lax.rsqrt(variance + plan.epsilon)
    between()

    def write(index, carry):
        at = chunk(index, config)
        h = (values(index) - near - offset) * r
        y[at] = activate(affine(h, vectors, at, plan.form), plan.activation).astype(y.dtype)
        return carry

    over_chunks(config, write, 0, config.in_registers)
    return near + offset, r


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


def over_chunks(config: MosaicConfig, step: Any, carry: Any, unrolled: bool = False) -> Any:
    """Folds `step(index, carry)` over the chunks of a row."""
    if not unrolled:
        return jax.lax.fori_loop(0, config.chunks, step, carry)
    for index in range(config.chunks):
        carry = step(index, carry)
    return carry


def sum_over(config: MosaicConfig, term: Any, unrolled: bool = False) -> jax.Array:
    """The sum over a row of what `term` makes of each chunk's index: each thread adds up its own elements, and then the
    threads do."""
    zero = jnp.zeros((config.chunk_lines, config.line), jnp.float32)
    return jnp.sum(over_chunks(config, lambda index, carry: carry + term(index), zero, unrolled))


def moments(config: MosaicConfig, values: Any, unrolled: bool = False) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The mean in two parts, one rounded and what that leaves of the other values, and the variance.

    (w - near - offset) then has the error of one rounding, however large the mean is beside the deviation.

    Args:
      values: of the chunk with an index, in float32.
      unrolled: whether they are at hand in registers.
    """
    near = sum_over(config, values, unrolled) / config.columns

    def step(index, carry):
        centred = values(index) - near
        return carry[0] + centred, carry[1] + centred * centred

    zero = jnp.zeros((config.chunk_lines, config.line), jnp.float32)
    left, squares = over_chunks(config, step, (zero, zero), unrolled)
    offset = jnp.sum(left) / config.columns
    return near, offset, jnp.maximum(jnp.sum(squares) / config.columns - offset * offset, 0.0)
