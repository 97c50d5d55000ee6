"""Published kernels over rows, written anew in Pallas Triton: one row, or one group, per program.

What has to be as published is what time depends on: the grid, the threads of a block, which bytes a program reads and
writes and how often, and the loops. Arrays are passed flat.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from normbench.jax_compat.triton import triton_call, triton_load, triton_program_id, triton_store
from normbench.kernels.pallas.cost import cost

EPSILON = 1e-6
THREADS_PER_WARP = 32


@dataclass(frozen=True)
class Rows:
    """A norm over the rows of x.

    y = (x - mean) * rsqrt(var + epsilon) * w + b where `centred`, else y = x * rsqrt(mean(x^2) + epsilon) * w; of
    x + residual where there is a residual, and the sum is written too. With 32-bit accumulation.

    Attributes:
      rows, columns: of x.
      dtype, parameter_dtype: of x and y, and of w and b.
      centred: layer norm, else RMS norm.
      statistics: how many values per row are written beside y: none, 1/deviation, or mean and 1/deviation.
      residual: whether a second tensor is added first.
      llama: whether the product with w is taken in x's dtype.
    """

    rows: int
    columns: int
    dtype: str
    parameter_dtype: str
    centred: bool
    statistics: int
    residual: bool = False
    llama: bool = False

    def inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """x, residual (where there is one), w, b (where centred)."""
        x = jax.ShapeDtypeStruct((self.rows * self.columns,), self.dtype)
        w = jax.ShapeDtypeStruct((self.columns,), self.parameter_dtype)
        return (x,) * (1 + self.residual) + (w,) * (1 + self.centred)

    def outputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """y, x + residual (where there is one), the statistics in float32."""
        x = self.inputs()[0]
        return (x,) * (1 + self.residual) + (jax.ShapeDtypeStruct((self.rows,), "float32"),) * self.statistics

    def call(
        self, kernel: Callable[..., None], warps: int, name: str, *, twice: bool = False
    ) -> Callable[..., tuple[jax.Array, ...]]:
        """The launch of one program per row; `twice` says that it walks over the row a second time."""
        moved = cost(self.inputs(), self.outputs(), again=self.inputs()[:1] if twice else ())
        return triton_call(kernel, grid=self.rows, out=self.outputs(), warps=warps, name=name, cost=moved)


def row_forward(plan: Rows, num_warps: int) -> Callable[..., tuple[jax.Array, ...]]:
    """The whole row of a program at once, kept in registers; as in Triton's tutorial, Liger-Kernel and SGLang."""
    return plan.call(partial(_row_kernel, plan), num_warps, "published_row")


def _row_kernel(plan: Rows, *refs):
    x_refs, w_refs, y_refs, statistics = _split(plan, refs)
    row = triton_program_id()
    columns = _power_of_two(plan.columns)
    within = jax.lax.iota(jnp.int32, columns)
    mask = None if columns == plan.columns else within < plan.columns
    at = row * plan.columns + within
    x = _load_sum(x_refs, at, mask)
    if plan.residual:
        triton_store(y_refs[1], at, x, mask=mask)
    parameters = [triton_load(ref, within, mask=mask) for ref in w_refs]
    x = x.astype(jnp.float32)
    mean = jnp.sum(x) / plan.columns if plan.centred else jnp.float32(0)
    centre = x - mean if plan.centred else x
    if plan.centred and mask is not None:
        centre = jnp.where(mask, centre, 0.0)
    deviation = jax.lax.rsqrt(jnp.sum(centre * centre) / plan.columns + EPSILON)
    y = _affine(plan, centre * deviation, parameters)
    triton_store(y_refs[0], at, y.astype(plan.dtype), mask=mask)
    _store_statistics(statistics, row, mean, deviation)


def softmax_row(
    rows: int, columns: int, dtype: str, num_warps: int
) -> tuple[Callable[..., jax.Array], tuple[jax.ShapeDtypeStruct, ...]]:
    """exp(x - max x) / sum exp(x - max x) over the rows of x, one program per row, which is kept in registers.

    As in Liger-Kernel, where a row is a block; ATen keeps it in shared memory. Columns are a power of two. Returns the
    function of x and its input.
    """
    x = jax.ShapeDtypeStruct((rows * columns,), dtype)
    call = triton_call(partial(_softmax_kernel, columns), grid=rows, out=(x,), warps=num_warps,
                       name="published_softmax_row", cost=cost((x,), (x,)))  # fmt: skip
    return lambda one: call(one)[0], (x,)


def _softmax_kernel(columns, x_ref, y_ref):
    at = triton_program_id() * columns + jax.lax.iota(jnp.int32, columns)
    x = triton_load(x_ref, at).astype(jnp.float32)
    terms = jnp.exp(x - jnp.max(x))
    triton_store(y_ref, at, (terms / jnp.sum(terms)).astype(y_ref.dtype))


def two_pass_row(plan: Rows, threads: int, vector: int) -> Callable[..., tuple[jax.Array, ...]]:
    """A block of threads that walks over its row twice, `vector` elements per thread and step; as in ATen, vLLM and
    FlashInfer. The second walk reads the row again (with a residual, the sum that the first wrote), unless the row is
    one step and has a residual: that one stays with the threads.
    """
    if plan.residual and threads * vector >= plan.columns:
        return plan.call(partial(_row_kernel, plan), threads // THREADS_PER_WARP, "published_row")
    kernel = partial(_two_pass_kernel, plan, threads * vector)
    return plan.call(kernel, threads // THREADS_PER_WARP, "published_two_pass_row", twice=True)


def _two_pass_kernel(plan: Rows, step: int, *refs):
    x_refs, w_refs, y_refs, statistics = _split(plan, refs)
    row = triton_program_id()
    steps = -(-plan.columns // step)
    even = plan.columns % step == 0

    def place(i):
        within = i * step + jax.lax.iota(jnp.int32, step)
        return within, row * plan.columns + within, None if even else within < plan.columns

    def add(i, sums):
        _, at, mask = place(i)
        x = _load_sum(x_refs, at, mask)
        if plan.residual:
            triton_store(y_refs[1], at, x, mask=mask)
        x = x.astype(jnp.float32)
        return sums[0] + x, sums[1] + x * x

    zero = jnp.zeros((step,), jnp.float32)
    total, squares = jax.lax.fori_loop(0, steps, add, (zero, zero))
    mean = jnp.sum(total) / plan.columns if plan.centred else jnp.float32(0)
    deviation = jax.lax.rsqrt(jnp.sum(squares) / plan.columns - mean * mean + EPSILON)

    def write(i, nothing):
        within, at, mask = place(i)
        x = triton_load(y_refs[1] if plan.residual else x_refs[0], at, mask=mask).astype(jnp.float32)
        parameters = [triton_load(ref, within, mask=mask) for ref in w_refs]
        y = _affine(plan, (x - mean) * deviation, parameters)
        triton_store(y_refs[0], at, y.astype(plan.dtype), mask=mask)
        return nothing

    jax.lax.fori_loop(0, steps, write, jnp.int32(0))
    _store_statistics(statistics, row, mean, deviation)


def group_loops(
    shape: tuple[int, ...], dtype: str, channels_per_group: int, block: int, num_warps: int
) -> tuple[Callable[..., tuple[jax.Array, ...]], tuple[jax.ShapeDtypeStruct, ...]]:
    """A group norm of x (batch, channels, positions), one program per group; as in Liger-Kernel.

    A group is walked over twice, `block` elements a step; scale and offset are looked up per element by its channel,
    for which each index is divided by the number of positions: as there, the kernel is told it when it runs.
    Returns the function of (x, scale, offset) and its inputs; the function returns y, mean, 1/deviation.
    """
    batch, channels, positions = shape
    groups, size = channels // channels_per_group, channels_per_group * positions
    x = jax.ShapeDtypeStruct((batch * channels * positions,), dtype)
    parameter = jax.ShapeDtypeStruct((channels,), dtype)
    statistic = jax.ShapeDtypeStruct((batch * groups,), dtype)
    inputs, outputs = (x, parameter, parameter), (x, statistic, statistic)
    kernel = partial(_group_kernel, groups, channels_per_group, size, block, -(-size // block))
    call = triton_call(kernel, grid=(batch, groups), out=outputs, warps=num_warps, name="published_group_loops",
                       cost=cost(inputs, outputs, again=(x,)))  # fmt: skip
    return lambda *arrays: call(*arrays, jnp.full((1,), positions, jnp.int32)), inputs


def _group_kernel(
    groups, channels_per_group, size, block, steps, x_ref, w_ref, b_ref, positions_ref, y_ref, mean_ref, r_ref
):
    group = triton_program_id(1)
    unit = triton_program_id(0) * groups + group
    positions = triton_load(positions_ref, jnp.zeros((block,), jnp.int32))

    def place(i):
        within = i * block + jax.lax.iota(jnp.int32, block)
        return within, unit * size + within, None if size % block == 0 else within < size

    def add(i, sums):
        _, at, mask = place(i)
        x = triton_load(x_ref, at, mask=mask).astype(jnp.float32)
        return sums[0] + jnp.sum(x), sums[1] + jnp.sum(x * x)

    total, squares = jax.lax.fori_loop(0, steps, add, (jnp.float32(0), jnp.float32(0)))
    mean = total / size
    deviation = jax.lax.rsqrt(squares / size - mean * mean + EPSILON)

    def write(i, nothing):
        within, at, mask = place(i)
        x = triton_load(x_ref, at, mask=mask).astype(jnp.float32)
        channel = group * channels_per_group + jax.lax.div(within, positions)
        w, b = triton_load(w_ref, channel, mask=mask), triton_load(b_ref, channel, mask=mask)
        y = (x - mean) * deviation * w + b
        triton_store(y_ref, at, y.astype(y_ref.dtype), mask=mask)
        return nothing

    jax.lax.fori_loop(0, steps, write, jnp.int32(0))
    _store_statistics((mean_ref, r_ref), unit, mean, deviation)


def _split(plan: Rows, refs):
    inputs, outputs = refs[: len(plan.inputs())], refs[len(plan.inputs()) :]
    tensors = 1 + plan.residual
    return inputs[:tensors], inputs[tensors:], outputs[:tensors], outputs[tensors:]


def _load_sum(refs, at: jax.Array, mask: jax.Array | None) -> jax.Array:
    x = triton_load(refs[0], at, mask=mask)
    for ref in refs[1:]:
        x = x + triton_load(ref, at, mask=mask)
    return x


def _affine(plan: Rows, h: jax.Array, parameters: list[jax.Array]) -> jax.Array:
    if plan.llama:
        return h.astype(plan.dtype) * parameters[0]
    y = h * parameters[0].astype(jnp.float32)
    return y + parameters[1].astype(jnp.float32) if plan.centred else y


def _store_statistics(refs, row, mean: jax.Array, deviation: jax.Array) -> None:
    """Stores the last of (mean, 1/deviation) for which there are references."""
    one = row + jax.lax.iota(jnp.int32, 1)
    for ref, value in zip(refs, (mean, deviation)[2 - len(refs) :], strict=True):
        triton_store(ref, one, jnp.broadcast_to(value, (1,)).astype(ref.dtype))


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()
