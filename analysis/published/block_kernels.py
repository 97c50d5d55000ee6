"""tokamax's normalization kernels, written anew in Pallas Triton: a block of rows per program, or of columns.

x is seen as (outer, axis, inner), and the middle axis is normalized: inner is 1 where that is the last one. As there, a
program's references are to its blocks: where a statistic is read by an index that has axes of one element, Triton lays
out the gradient otherwise, with eight times the shuffles.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from normbench.jax_compat.triton import Block, triton_call
from normbench.kernels.pallas.cost import cost

EPSILON = 1e-6


@dataclass(frozen=True)
class Blocks:
    """A layer norm of x (outer, axis, inner) over the middle axis by programs of block_m x axis x block_n elements.

    Attributes:
      outer, axis, inner: of x; axis is a power of two, and the blocks divide the others.
      dtype, parameter_dtype: of x and y, and of scale and offset.
      block_m, block_n: rows and inner positions per program.
      num_warps: of a program.
    """

    outer: int
    axis: int
    inner: int
    dtype: str
    parameter_dtype: str
    block_m: int
    block_n: int
    num_warps: int

    @property
    def grid(self) -> tuple[int, int]:
        return self.outer // self.block_m, self.inner // self.block_n

    @property
    def x(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((self.outer, self.axis, self.inner), self.dtype)

    @property
    def parameter(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((self.axis, 1), self.parameter_dtype)

    @property
    def statistic(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((self.outer, 1, self.inner), "float32")

    @property
    def partial_sums(self) -> jax.ShapeDtypeStruct:
        """Of a gradient of a parameter: a row per program."""
        m, n = self.grid
        return jax.ShapeDtypeStruct((m, self.axis, n), "float32")

    def call(self, kernel: Callable[..., None], inputs: tuple, outputs: tuple, name: str) -> Callable[..., Any]:
        blocks = ([self._block(array) for array in inputs], [self._block(array) for array in outputs])
        return triton_call(partial(kernel, self), grid=self.grid, out=outputs, warps=self.num_warps, name=name,
                           cost=cost(inputs, outputs), blocks=blocks)  # fmt: skip

    def _block(self, array: jax.ShapeDtypeStruct) -> Block:
        """A program's part of an array, which its shape tells."""
        if array == self.parameter:
            return Block((self.axis, 1), lambda m, n: (0, 0))
        if array == self.partial_sums:
            return Block((1, self.axis, 1), lambda m, n: (m, 0, n))
        return Block((self.block_m, array.shape[1], self.block_n), lambda m, n: (m, 0, n))


def blocks_forward(plan: Blocks, residuals: bool) -> Callable[..., tuple[jax.Array, ...]]:
    """(x, scale, offset) -> y, and with `residuals` (y, mean, 1/deviation)."""
    inputs = (plan.x, plan.parameter, plan.parameter)
    outputs = (plan.x, plan.statistic, plan.statistic) if residuals else (plan.x,)
    return plan.call(_forward_kernel, inputs, outputs, "published_blocks_forward")


def _forward_kernel(plan: Blocks, x_ref, scale_ref, offset_ref, y_ref, *statistics):
    x = x_ref[...].astype(jnp.float32)
    mean = jnp.sum(x, axis=1, keepdims=True) / plan.axis
    x = x - mean
    deviation = jax.lax.rsqrt(jnp.sum(x * x, axis=1, keepdims=True) / plan.axis + EPSILON)
    y_ref[...] = (x * deviation * scale_ref[...] + offset_ref[...]).astype(plan.dtype)
    for ref, value in zip(statistics, (mean, deviation), strict=False):
        ref[...] = value


def blocks_vjp(plan: Blocks) -> Callable[..., tuple[jax.Array, jax.Array, jax.Array]]:
    """(x, dy, scale, mean, 1/deviation) -> dx, dscale, doffset: a launch, and the sums of what its programs leave."""
    inputs = (plan.x, plan.x, plan.parameter, plan.statistic, plan.statistic)
    call = plan.call(_vjp_kernel, inputs, (plan.x, plan.partial_sums, plan.partial_sums), "published_blocks_vjp")

    def run(*arrays):
        dx, *sums = call(*arrays)
        dscale, doffset = (jnp.sum(one, axis=(0, 2)) for one in sums)
        return dx, dscale, doffset

    return run


def _vjp_kernel(plan: Blocks, x_ref, dy_ref, scale_ref, mean_ref, deviation_ref, dx_ref, dscale_ref, doffset_ref):
    deviation = deviation_ref[...]
    h = (x_ref[...].astype(jnp.float32) - mean_ref[...]) * deviation
    dy = dy_ref[...].astype(jnp.float32)
    for ref, terms in ((doffset_ref, dy), (dscale_ref, dy * h)):
        ref[...] = jnp.sum(jnp.sum(terms, axis=2, keepdims=True), axis=0, keepdims=True)
    dh = dy * scale_ref[...]
    projection = jnp.sum(dh * h, axis=1, keepdims=True) / plan.axis
    dx = (dh - projection * h - jnp.sum(dh, axis=1, keepdims=True) / plan.axis) * deviation
    dx_ref[...] = dx.astype(plan.dtype)
