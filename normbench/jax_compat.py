"""The only way into JAX's private and unstable parts; what differs between JAX releases is settled here.

Importing this module does not initialise a backend.
"""

# ---------------------------------------------------------------------------------------------------------------------
# Pallas Triton (deprecated from JAX 0.11.0, present up to 0.12)
# ---------------------------------------------------------------------------------------------------------------------

from collections.abc import Callable
from typing import Any

import jax


def triton_call(kernel: Callable[..., None], *, grid: int, out: jax.ShapeDtypeStruct, warps: int, name: str):
    """Returns a function that launches a Pallas Triton kernel over a one-dimensional grid.

    The kernel takes whole arrays as references, the inputs and then the output, and indexes them itself. Which way it
    runs is decided when it is lowered: compiled through Triton for a GPU, interpreted on a CPU. So one function serves
    both, and a process without a GPU can compile it for one. From JAX 0.11 such a process has to lower it inside
    `jax.sharding.use_abstract_mesh(mesh.abstract_mesh)`, where `mesh` is made of the described devices: the lowering
    asks the abstract mesh which GPU it is for.
    """
    from jax.experimental import pallas
    from jax.experimental.pallas import triton

    def launch(*arrays: jax.Array, interpret: bool) -> jax.Array:
        return pallas.pallas_call(
            kernel,
            out_shape=out,
            grid=(grid,),
            interpret=interpret,
            compiler_params=triton.CompilerParams(num_warps=warps, num_stages=1),
            name=name,
        )(*arrays)

    def interpreted(*arrays: jax.Array) -> jax.Array:
        return launch(*arrays, interpret=True)

    def compiled(*arrays: jax.Array) -> jax.Array:
        return launch(*arrays, interpret=False)

    return lambda *arrays: jax.lax.platform_dependent(*arrays, cpu=interpreted, default=compiled)


def triton_load(reference: Any, index: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Loads `reference[index]` inside a Pallas Triton kernel; zero where `mask` is False."""
    from jax.experimental.pallas import triton

    return triton.load(reference.at[index], mask=mask, other=None if mask is None else 0)


def triton_store(reference: Any, index: jax.Array, value: jax.Array, mask: jax.Array | None = None) -> None:
    """Stores `reference[index] = value` inside a Pallas Triton kernel where `mask` is True."""
    from jax.experimental.pallas import triton

    triton.store(reference.at[index], value, mask=mask)


# ---------------------------------------------------------------------------------------------------------------------
