"""Pallas for TPUs (Mosaic TPU): the only way in.

A kernel takes references to blocks in VMEM, which the pipeline of the grid brings and takes away. Which way it runs is
decided when it is lowered: compiled for a TPU, interpreted on a CPU. Contents of a block beyond the end of its array
are undefined on a TPU, and no numbers where it is interpreted.
"""

import contextlib
import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from normbench.declared import declare
from normbench.jax_compat.varying import alike, result_like

_RACES: ContextVar[bool] = ContextVar("races", default=False)
"""Whether the kernels that are being traced are interpreted with buffers, copies and a search for races."""


def tpu_call(
    kernel: Callable[..., None],
    *,
    grid: tuple[int, ...],
    in_specs: Sequence[Any],
    out_specs: Sequence[Any],
    out: Sequence[jax.ShapeDtypeStruct],
    scratch: Sequence[jax.ShapeDtypeStruct] = (),
    parallel: int = 0,
    vmem_bytes: int,
    name: str,
    cost: Any,
) -> Callable[..., Any]:
    """Returns a function that launches a kernel on a TPU, or interprets it on a CPU.

    Args:
      kernel: (*inputs, *outputs, *scratch) -> None, references to blocks in VMEM.
      grid: steps along each dimension, the last one fastest.
      in_specs, out_specs: `block(...)` of each array.
      out: abstract results.
      scratch: abstract arrays that stay in VMEM from step to step.
      parallel: how many of the first dimensions of the grid keep nothing from step to step.
      vmem_bytes: what the kernel may take of VMEM.
      name: of the kernel.
      cost: `read_bytes`, `write_bytes`, `flops` of the launch, as declared.
    """
    from jax.experimental import pallas
    from jax.experimental.pallas import tpu

    semantics: Any = ("parallel",) * parallel + ("arbitrary",) * (len(grid) - parallel)
    estimate = pallas.CostEstimate(
        flops=cost.flops, transcendentals=0, bytes_accessed=cost.read_bytes + cost.write_bytes
    )

    def launch(*arrays: jax.Array, interpret: Any) -> Any:
        arrays = alike(arrays)
        return pallas.pallas_call(
            kernel,
            out_shape=result_like(tuple(out), arrays),
            grid=grid,
            in_specs=list(in_specs),
            out_specs=tuple(out_specs),
            scratch_shapes=[tpu.VMEM(array.shape, array.dtype) for array in scratch],
            interpret=interpret,
            compiler_params=tpu.CompilerParams(dimension_semantics=semantics, vmem_limit_bytes=vmem_bytes),
            cost_estimate=estimate,
            name=name,
        )(*arrays)

    def compiled(*arrays: jax.Array) -> Any:
        with jax.named_scope(declare(cost.read_bytes, cost.write_bytes)):
            return launch(*arrays, interpret=False)

    def interpreted(*arrays: jax.Array) -> Any:
        races = _RACES.get()
        return launch(*arrays, interpret=tpu.InterpretParams(detect_races=True) if races else True)

    return lambda *arrays: jax.lax.platform_dependent(*arrays, cpu=interpreted, default=compiled)


def block(shape: Sequence[int | None], index: Callable[..., tuple]) -> Any:
    """A block of an array: its shape, None for a dimension of size 1 that the kernel does not see, and which one a step
    of the grid has, counted in blocks."""
    from jax.experimental import pallas

    def narrow(*place: Any) -> tuple:
        # In JAX's 64-bit mode a number of Python would be one of 64 bits, which a TPU does not take here.
        return tuple(np.int32(one) if isinstance(one, int) else one for one in index(*place))

    return pallas.BlockSpec(tuple(shape), narrow)


def tpu_program_id(axis: int) -> jax.Array:
    """Which step along a dimension of the grid this is."""
    from jax.experimental import pallas

    return pallas.program_id(axis)


def tpu_when(condition: Any) -> Callable[[Callable[[], None]], None]:
    """A decorator: the function runs where the condition is true."""
    from jax.experimental import pallas

    return pallas.when(condition)


def tpu_slice(start: Any, size: int, aligned: int = 1) -> Any:
    """`size` places of a reference from `start` on, which is a multiple of `aligned`."""
    from jax.experimental import pallas

    return pallas.ds(pallas.multiple_of(start, aligned) if aligned > 1 else start, size)


@contextlib.contextmanager
def races_looked_for() -> Iterator[Callable[[], bool]]:
    """Kernels that are traced inside are interpreted as a TPU runs them, with copies beside the computation; what is
    yielded says, after they have run, whether one of them read or wrote what another did at the same time."""
    from jax._src.pallas.mosaic.interpret import interpret_pallas_call as interpreter

    def any_found() -> bool:
        jax.effects_barrier()
        races: Any = interpreter.races
        return bool(races is not None and races.races_found)

    token = _RACES.set(True)
    try:
        yield any_found
    finally:
        _RACES.reset(token)


def tpu_blocks(function: Callable[..., Any], *inputs: Any) -> Iterator[tuple[list[tuple[int, ...]], int]]:
    """Of each array of each kernel that `function` compiles for a TPU: which block of it the steps of the grid have,
    one after the other, and the bytes of a block."""
    from jax.extend.core import jaxpr_as_fun

    for grid in _grids(jax.make_jaxpr(function)(*inputs).jaxpr):
        steps = np.asarray(list(itertools.product(*map(range, grid.grid))), np.int32)
        for mapping in grid.block_mappings:
            index = jaxpr_as_fun(mapping.index_map_jaxpr)
            found = jax.vmap(lambda step, index=index: jnp.stack([jnp.asarray(i) for i in index(*step)]))(steps)
            size = math.prod(getattr(dimension, "block_size", 1) or 1 for dimension in mapping.block_shape)
            yield [tuple(row) for row in found.tolist()], size * mapping.array_aval.dtype.itemsize


def _grids(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        if equation.primitive.name == "pallas_call":
            if not equation.params["interpret"]:
                yield equation.params["grid_mapping"]
            continue
        for value in equation.params.values():
            for one in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(one, "jaxpr", one)
                if hasattr(inner, "eqns"):
                    yield from _grids(inner)


def default_order(shape: tuple[int, ...], dtype: str, device: Any) -> tuple[int, ...]:
    """The order in which the compiler of an absent TPU's `device` lays an argument's dimensions, the last two in
    tiles."""
    layout = device.client.get_default_layout(np.dtype(jnp.dtype(dtype)), tuple(shape), device)
    # Of a `PjRtLayout` only the text tells it: {minor dimensions first:tiles}.
    return tuple(int(axis) for axis in reversed(re.findall(r"\d+", str(layout).split(":")[0])))
