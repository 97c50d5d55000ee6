"""Layer norm and RMS norm backward in Mosaic GPU: programs that stay, walk over rows, and keep the sums for parameters.

With dh the cotangent of h, r = 1 / deviation and E the mean over the row:

    dw = r (dh - E[dh] - h E[dh h])      (RMS norm: without E[dh])
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from normbench.jax_compat.mosaic import (
    mosaic_await,
    mosaic_await_sent,
    mosaic_barrier,
    mosaic_call,
    mosaic_clear,
    mosaic_fetch,
    mosaic_program,
    mosaic_send,
    mosaic_shared,
    mosaic_when,
)
from normbench.kernels.pallas.cost import cost
from normbench.kernels.pallas.mosaic.activations import differentiate
from normbench.kernels.pallas.mosaic.exact.rows import affine, chunk
from normbench.kernels.pallas.mosaic.limits import RESERVED_BYTES, MosaicConfig, Plan, backward_config
from normbench.kernels.pallas.mosaic.partial_sums import sum_partials


def backward_shared_bytes(columns: int, dtype: str, param_dtype: str, plan: Plan, residual: bool) -> tuple[int, int]:
    """Shared memory of a backward program: of a row with its cotangents; of parameters and their sums in float32."""
    of_x, of_parameter = jnp.dtype(dtype).itemsize, jnp.dtype(param_dtype).itemsize
    slot = columns * (of_x * (1 + residual) + jnp.dtype(plan.output_dtype).itemsize)
    return slot, columns * (1 + plan.shifted) * (of_parameter + 4) + RESERVED_BYTES


def backward(saved: tuple, dy: jax.Array, dz: jax.Array | None, plan: Plan) -> tuple:
    """Returns dw and the gradients of the parameters; `saved` is (w, parameters, mean, r)."""
    w, parameters, mean, r = saved
    rows, columns = w.shape
    slot, fixed = backward_shared_bytes(columns, w.dtype.name, parameters[0].dtype.name, plan, dz is not None)
    config = backward_config(rows, columns, w.dtype.name, len(parameters), slot, fixed)
    block = (config.lines, config.line)
    whole = (config.rows, *block)
    tensors = (w, dy) if dz is None else (w, dy, dz)
    statistics = (r,) if mean is None else (r, mean)
    sums = jax.ShapeDtypeStruct((config.programs, *block), jnp.float32)
    out = (jax.ShapeDtypeStruct(whole, w.dtype), *(sums,) * len(parameters))
    scratch = (
        *(mosaic_shared((config.slots, *block), tensor.dtype) for tensor in tensors),
        *(mosaic_shared(block, parameter.dtype) for parameter in parameters),
        *(mosaic_shared(block, jnp.float32) for _ in parameters),
        mosaic_barrier(len(tensors), config.slots),
        mosaic_barrier(len(parameters)),
    )
    dw, *partials = mosaic_call(
        partial(_kernel, plan=plan, config=config, tensors=len(tensors), parameters=len(parameters)),
        grid=config.programs,
        out=out,
        scratch=scratch,
        name=f"{plan.name}_backward",
        cost=cost((*tensors, *statistics, *parameters), out),
    )(
        *(array.reshape(whole) for array in tensors),
        *statistics,
        *(array.reshape(block) for array in parameters),
    )
    return dw.reshape(w.shape), sum_partials(partials, parameters)


def _kernel(*refs: Any, plan: Plan, config: MosaicConfig, tensors: int, parameters: int) -> None:
    count = tensors + 1 + plan.centered + parameters
    inputs, outputs, scratch = refs[:count], refs[count : count + 1 + parameters], refs[count + 1 + parameters :]
    slots, vectors = scratch[:tensors], scratch[tensors : tensors + parameters]
    sums = scratch[tensors + parameters : tensors + 2 * parameters]
    arrived, vectors_arrived = scratch[-2:]
    statistics = inputs[tensors : tensors + 1 + plan.centered]
    program = mosaic_program()
    rows = (config.rows - program + config.programs - 1) // config.programs

    def fetch(index, slot):
        for ref, target in zip(inputs[:tensors], slots, strict=True):
            mosaic_fetch(ref.at[program + index * config.programs], target.at[slot], arrived.at[slot])

    for ref, target in zip(inputs[tensors + 1 + plan.centered :], vectors, strict=True):
        mosaic_fetch(ref, target, vectors_arrived)
    if config.slots == 2:
        fetch(0, 0)
    _clear(sums, config)
    mosaic_await(vectors_arrived)

    def step(index, carry):
        slot = index % config.slots
        ahead = config.slots - 1

        @mosaic_when(index + ahead < rows)
        def _():
            mosaic_await_sent(read_only=True)  # what was in the slot may still be on its way out
            fetch(index + ahead, (index + ahead) % config.slots)

        mosaic_await(arrived.at[slot])
        row = program + index * config.programs
        r = statistics[0][row]
        mean = statistics[1][row] if plan.centered else 0.0
        _one_row([ref.at[slot] for ref in slots], vectors, sums, mean, r, plan, config)
        mosaic_send((slots[0].at[slot], outputs[0].at[row]))
        return carry

    jax.lax.fori_loop(0, rows, step, 0)
    mosaic_send(*((source, target.at[program]) for source, target in zip(sums, outputs[1:], strict=True)))
    mosaic_await_sent()


def _clear(sums: Any, config: MosaicConfig) -> None:
    def step(index, carry):
        for ref in sums:
            mosaic_clear(ref, chunk(index, config))
        return carry

    jax.lax.fori_loop(0, config.chunks, step, 0)


def _one_row(slots, vectors, sums, mean, r, plan: Plan, config: MosaicConfig) -> None:
    """dw takes the place of w; the sums for the parameters grow."""
    w, dy = slots[:2]

    def pull(at):
        """h, the cotangent of act's argument, and that of h."""
        h = (w[at].astype(jnp.float32) - mean) * r
        pulled = dy[at].astype(jnp.float32)
        if plan.activation != "none":
            pulled = differentiate(affine(h, vectors, at, plan.form), pulled, plan.activation)
        return h, pulled, pulled * plan.form.scale(vectors[0][at].astype(jnp.float32))

    def add(index, carry):
        at = chunk(index, config)
        h, dz, dh = pull(at)
        sums[0][at] = sums[0][at] + dz * plan.form.rounded_in_mosaic(h)
        if plan.shifted:
            sums[1][at] = sums[1][at] + dz
        return carry[0] + dh, carry[1] + dh * h

    zero = jnp.zeros((config.chunk_lines, config.line), jnp.float32)
    sum_dh, sum_dh_h = jax.lax.fori_loop(0, config.chunks, add, (zero, zero))
    mean_dh = jnp.sum(sum_dh) / config.columns if plan.centered else 0.0
    mean_dh_h = jnp.sum(sum_dh_h) / config.columns

    def write(index, carry):
        at = chunk(index, config)
        h, _, dh = pull(at)
        dw = r * (dh - mean_dh - h * mean_dh_h)
        if len(slots) == 3:
            dw = dw + slots[2][at].astype(jnp.float32)
        w[at] = dw.astype(w.dtype)
        return carry

    jax.lax.fori_loop(0, config.chunks, write, 0)
