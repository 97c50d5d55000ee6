"""Pallas Triton (deprecated from JAX 0.11.0, present up to 0.12): the only way in.

A kernel takes whole arrays as references, the inputs and then the outputs, and indexes them itself with arrays of
32-bit indices. Which way it runs is decided when it is lowered: compiled through Triton for a GPU, interpreted on a
CPU. So one function serves both, and a process without a GPU can compile it for one. From JAX 0.11 such a process has
to lower it inside `jax.sharding.use_abstract_mesh(mesh.abstract_mesh)`, where `mesh` is made of the described devices:
the lowering asks the abstract mesh which GPU it is for.
"""

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from normbench.declared import declare
from normbench.jax_compat.varying import alike, result_like

_INTERPRETED: ContextVar[bool] = ContextVar("interpreted", default=False)
"""Whether the kernel that is being traced will be interpreted."""


class Block(NamedTuple):
    """The part of an array that a program's reference is to.

    Attributes:
      shape: in elements, one size for each dimension of the array.
      place: of the program's indices in the grid; counted in blocks, one number for each dimension.
    """

    shape: tuple[int, ...]
    place: Callable[..., tuple[Any, ...]]


def triton_call(
    kernel: Callable[..., None],
    *,
    grid: int | tuple[int, ...],
    out: Any,
    warps: int,
    name: str,
    cost: Any = None,
    stages: int = 1,
    blocks: tuple[Sequence[Block], Sequence[Block]] | None = None,
) -> Callable[..., Any]:
    """Returns a function that launches a Pallas Triton kernel.

    Args:
      kernel: (*inputs, *outputs) -> None, all of them references to whole arrays.
      grid: number of programs along up to three dimensions.
      out: `jax.ShapeDtypeStruct`, or a tuple of them.
      warps: of 32 threads, per program.
      name: of the kernel.
      cost: `read_bytes`, `write_bytes`, `flops` of the launch, as declared; None declares nothing.
      stages: of software pipelining of loops that load.
      blocks: of the inputs and of the outputs, which the kernel's references are then to; None for whole arrays.
    """
    from jax.experimental import pallas
    from jax.experimental.pallas import triton

    specs: dict[str, Any] = {}
    if blocks is not None:
        specs = {"in_specs": _specs(blocks[0]), "out_specs": _specs(blocks[1])}

    def traced_to_be_interpreted(*references: Any) -> None:
        # A function of its own: JAX keeps what it has traced of a kernel, and from 0.11 hands it to both branches.
        token = _INTERPRETED.set(True)
        try:
            kernel(*references)
        finally:
            _INTERPRETED.reset(token)

    def launch(*arrays: jax.Array, interpret: bool) -> Any:
        arrays = alike(arrays)
        return pallas.pallas_call(
            traced_to_be_interpreted if interpret else kernel,
            out_shape=result_like(out, arrays),
            grid=grid if isinstance(grid, tuple) else (grid,),
            interpret=interpret,
            compiler_params=triton.CompilerParams(num_warps=warps, num_stages=stages),
            cost_estimate=_estimate(cost),
            name=name,
            **specs,
        )(*arrays)

    def interpreted(*arrays: jax.Array) -> Any:
        return launch(*arrays, interpret=True)

    def compiled(*arrays: jax.Array) -> Any:
        if cost is None:
            return launch(*arrays, interpret=False)
        with jax.named_scope(declare(cost.read_bytes, cost.write_bytes)):
            return launch(*arrays, interpret=False)

    return lambda *arrays: jax.lax.platform_dependent(*arrays, cpu=interpreted, default=compiled)


def _specs(blocks: Sequence[Block]) -> tuple[Any, ...]:
    from jax.experimental import pallas

    return tuple(pallas.BlockSpec(block.shape, block.place) for block in blocks)


def _estimate(cost: Any) -> Any:
    from jax.experimental import pallas

    if cost is None:
        return None
    return pallas.CostEstimate(flops=cost.flops, transcendentals=0, bytes_accessed=cost.read_bytes + cost.write_bytes)


def triton_program_id(axis: int = 0) -> jax.Array:
    """The index of the running program in the grid."""
    from jax.experimental import pallas

    return pallas.program_id(axis)


def triton_when(condition: jax.Array) -> Callable[[Callable[[], None]], None]:
    """Decorator: runs the function inside the kernel where `condition` holds."""
    from jax.experimental import pallas

    return pallas.when(condition)


def triton_load(
    reference: Any, index: Any, mask: jax.Array | None = None, eviction: str | None = None, other: float = 0
) -> jax.Array:
    """Loads `reference[index]` inside a Pallas Triton kernel; `other` where `mask` is False.

    `eviction` is "evict_first" for what is not needed again, "evict_last" for what is, None for the default.
    """
    from jax.experimental.pallas import triton

    # Pallas casts a float to eight bits, and no integer.
    fill = None if mask is None else float(other) if jnp.dtype(reference.dtype).itemsize == 1 else other
    return triton.load(reference.at[index], mask=mask, other=fill, eviction_policy=eviction)


def triton_store(
    reference: Any, index: Any, value: jax.Array, mask: jax.Array | None = None, eviction: str | None = None
) -> None:
    """Stores `reference[index] = value` inside a Pallas Triton kernel where `mask` is True; `reference` is flat.

    Where a masked lane has the index of another, JAX's interpreter may write back what the other has overwritten: it
    stores an old value in the place of a masked one. So what is interpreted drops masked lanes by their index.
    """
    from jax.experimental.pallas import triton

    if mask is not None and _INTERPRETED.get():
        kept = jnp.where(mask, index, reference.size)
        reference[...] = reference[...].at[kept].set(value, mode="drop")
        return
    triton.store(reference.at[index], value, mask=mask, eviction_policy=eviction)
