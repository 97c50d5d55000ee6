"""Pallas Mosaic GPU (Hopper and newer; unstable, jax 0.10.2 to 0.12): the only way in.

A kernel takes references to whole arrays in device memory, the inputs and then the outputs, and references to its
scratch, which lies in shared memory. It copies between the two in bulk, asynchronously, and computes on what lies in
shared memory as with NumPy arrays: layouts in registers are inferred (the lowering with warpgroup semantics, which JAX
0.10.2 has but does not choose by itself). Compiled for a GPU; on a CPU interpreted, with shared memory and asynchronous
copies simulated and races looked for.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from normbench.declared import declare
from normbench.jax_compat.varying import alike

SHARED_BYTES = 232448
"""Shared memory of one program on Hopper and on datacentre Blackwell."""
AXIS = "program"


def mosaic_call(
    kernel: Callable[..., None], *, grid: int, out: Any, scratch: tuple, name: str, cost: Any
) -> Callable[..., Any]:
    """Returns a function that launches a kernel of one warpgroup (128 threads) per program.

    Args:
      kernel: (*inputs, *outputs, *scratch) -> None; `mosaic_program()` says which of the programs it is.
      grid: number of programs.
      out: a tuple of `jax.ShapeDtypeStruct`.
      scratch: of `mosaic_shared` and `mosaic_barrier`.
      name: of the kernel: of a scope around it, as the kernel itself takes none.
      cost: `read_bytes` and `write_bytes` of the launch, as declared.
    """

    def launch(*arrays: jax.Array, interpret: Any) -> Any:
        from jax.experimental.pallas import mosaic_gpu

        found = mosaic_gpu.kernel(
            kernel,
            out_type=out,
            grid=(grid,),
            grid_names=(AXIS,),
            scratch_types=scratch,
            compiler_params=mosaic_gpu.CompilerParams(lowering_semantics=mosaic_gpu.LoweringSemantics.Warpgroup),
            interpret=interpret,
        )(*arrays)
        return alike(found, of=arrays)

    def call(*arrays: jax.Array) -> Any:
        if mosaic_interpreted():
            return launch(*arrays, interpret=_interpreter())
        with jax.named_scope(name), jax.named_scope(declare(cost.read_bytes, cost.write_bytes)):
            return launch(*arrays, interpret=None)

    return call


def mosaic_interpreted() -> bool:
    """Whether what is being traced will run on a CPU, and is interpreted there.

    The interpreter has side effects, so it cannot stand beside the kernel in one program until that is lowered. A GPU
    that is not there is named by the abstract mesh around the trace (`normbench.jax_compat.lower_for`).
    """
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    return jax.default_backend() == "cpu" if device is None else device.platform == "cpu"


def _interpreter() -> Any:
    from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams

    return InterpretGPUParams(detect_races=True)


def mosaic_shared(shape: tuple[int, ...], dtype: Any) -> Any:
    """Scratch in shared memory."""
    from jax.experimental.pallas import mosaic_gpu

    return mosaic_gpu.SMEM(shape, dtype)


def mosaic_barrier(arrivals: int, count: int = 1) -> Any:
    """`count` barriers, each of which is passed when as many copies have arrived."""
    from jax.experimental.pallas import mosaic_gpu

    return mosaic_gpu.Barrier(num_arrivals=arrivals, num_barriers=count)


def mosaic_program() -> jax.Array:
    """The index of the running program in the grid."""
    return jax.lax.axis_index(AXIS)


def mosaic_slice(start: Any, size: int) -> Any:
    """`size` elements from `start`, to index a reference with."""
    from jax.experimental import pallas

    return pallas.ds(start, size)


def mosaic_at_any_address(values: jax.Array) -> jax.Array:
    """What is loaded, element by element: a warpgroup else takes several of each thread from an address that it expects
    to be a multiple of their size. What is stored of it goes the same way."""
    from jax.experimental.pallas import mosaic_gpu

    if mosaic_interpreted():
        return values
    return mosaic_gpu.layout_cast(values, mosaic_gpu.Layout.WG_STRIDED(values.shape, vec_size=1))


def mosaic_clear(ref: Any, at: Any) -> None:
    """Sets part of float32 scratch to zero.

    jax 0.10.2 cannot store a constant of an odd number of warpgroups, so it is made to depend on what is there.
    """
    ref[at] = jnp.where(ref[at] > 0, 0.0, -0.0)


def mosaic_when(condition: jax.Array) -> Callable[[Callable[[], None]], None]:
    """Decorator: runs the function inside the kernel where `condition` holds."""
    from jax.experimental import pallas

    return pallas.when(condition)


def mosaic_fetch(source: Any, target: Any, barrier: Any) -> None:
    """Begins to copy device memory to shared memory; arrives at the barrier when it is there."""
    from jax.experimental.pallas import mosaic_gpu

    mosaic_gpu.copy_gmem_to_smem(source, target, barrier)


def mosaic_fetch_run(source: Any, target: Any, barrier: Any) -> None:
    """As `mosaic_fetch`, of one dimension and any length: a run of whole 16 bytes, from an address that is so, too."""
    from jax.experimental.pallas import mosaic_gpu

    # A copy that may end outside of the array takes a descriptor, whose lines have 256 elements at most.
    mosaic_gpu.copy_gmem_to_smem(source, target, barrier, oob_mode=mosaic_gpu.OOBFillMode.PROMISE_IN_BOUNDS)


def mosaic_stack_copies(count: int) -> int:
    """How many copies arrive at the barrier of `mosaic_fetch_stack`: one, where it is not interpreted."""
    return count if mosaic_interpreted() else 1


def mosaic_fetch_stack(source: Any, target: Any, barrier: Any) -> None:
    """As `mosaic_fetch`, of (count, lines, line) to (count * lines, line): without gaps, whatever the lines take."""
    if mosaic_interpreted():  # the interpreter of jax 0.10.2 knows no view of another shape
        for part, lines in _parts(source.shape, target):
            mosaic_fetch(source.at[part], lines, barrier)
    else:
        mosaic_fetch(source, target.reshape(*source.shape), barrier)


def _parts(shape: tuple[int, ...], flat: Any) -> Any:
    return ((part, flat.at[mosaic_slice(part * shape[1], shape[1])]) for part in range(shape[0]))


def mosaic_await(barrier: Any) -> None:
    from jax.experimental.pallas import mosaic_gpu

    mosaic_gpu.barrier_wait(barrier)


def mosaic_settle() -> None:
    """Every thread is done with what it read and wrote in shared memory, before it is copied to or from in bulk."""
    from jax.experimental.pallas import mosaic_gpu

    mosaic_gpu.commit_smem()


def mosaic_send(source: Any, target: Any) -> None:
    """Begins to copy from shared memory, as it was at `mosaic_settle`, to device memory."""
    from jax.experimental.pallas import mosaic_gpu

    mosaic_gpu.copy_smem_to_gmem(source, target)


def mosaic_send_stack(source: Any, target: Any) -> None:
    """As `mosaic_send`, of (count * lines, line) to (count, lines, line)."""
    if mosaic_interpreted():
        for part, lines in _parts(target.shape, source):
            mosaic_send(lines, target.at[part])
    else:
        mosaic_send(source.reshape(*target.shape), target)


def mosaic_await_sent(read_only: bool = False, but: int = 0) -> None:
    """Waits until all that was sent `but` the last copies has been read from shared memory, or also written to device
    memory."""
    from jax.experimental.pallas import mosaic_gpu

    mosaic_gpu.wait_smem_to_gmem(but, wait_read_only=read_only)
