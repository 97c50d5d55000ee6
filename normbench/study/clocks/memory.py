"""What fits into memory, what lies in a cache, and input sets that do not."""

import ctypes
import itertools
import math
import mmap
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from normbench.study.machine import environment, gpu_device

CACHE_MULTIPLE = 3
"""Inputs that are used again only after this many caches' worth of others come from memory."""
MAXIMUM_SETS = 64
PREFAULT_BLOCK_BYTES = 64 * 2**20
GPU_CACHE_BYTES = 128 * 2**20
"""At least the L2 of every GPU so far (A100 40, H100 and H200 50, B200 126 MiB)."""

# With glibc's defaults an output of 16 MB or more comes from fresh pages, on some calls and not on others, and each
# fault is timed: the tests of the allocator count them with and without these settings. The first three alone are not
# enough: XLA's threads take turns in allocating the outputs, and each has to fill an arena of its own, unless
# there is only one, which `prefault` can fill ahead. Huge pages, where the kernel grants them on request, make the
# buffers compete for the same cache lines in every process: outputs of 0.8 MB were seen to differ by 14 % without.
ALLOCATOR_ENVIRONMENT = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(8_589_934_592),
    "MALLOC_TOP_PAD_": str(2**28),
    "MALLOC_ARENA_MAX": "1",
}


def available_bytes() -> int:
    """Memory that can be had without swapping: the kernel's estimate, or a tighter limit of the control group."""
    free = environment.available_memory_bytes() or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    try:
        return min(free, int(limit.read_text()) - int(used.read_text()))
    except (OSError, ValueError):  # no control group, or its limit is "max"
        return free


def total_bytes() -> int:
    """Memory of this machine, or of its control group."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(whole, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no control group, or its limit is "max"
        return whole


def resident_bytes(pid: int) -> int | None:
    """Memory that a process holds; None where the system does not tell, or the process is no more."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def limit_memory(share: float) -> None:
    """Makes allocations beyond `share` of the available memory fail in this process, rather than swap the machine.

    Limits the data segment and private mappings; address space that is only reserved does not count.
    """
    if sys.platform.startswith("linux"):
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        wanted = int(share * available_bytes())
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def known_cache_bytes(device: str = "cpu") -> int | None:
    """Size of the largest cache of this machine's CPU, or of the L2 of its first GPU; None where it is not told."""
    return environment.last_level_cache_bytes() if device == "cpu" else gpu_device.l2_cache_bytes()


def last_level_cache_bytes(device: str = "cpu") -> int:
    """As `known_cache_bytes`; where it is not told, for a GPU that of the largest L2 in use."""
    assumed = environment.DEFAULT_LAST_LEVEL_CACHE_BYTES if device == "cpu" else GPU_CACHE_BYTES
    return known_cache_bytes(device) or assumed


def prefault(size_bytes: int) -> None:
    """Makes the allocator own that much free memory whose pages are there already.

    JAX frees a result some calls after it was dropped, so the memory of the process goes on growing for 10 to 20
    calls, each of which would be timed with its page faults. With `ALLOCATOR_ENVIRONMENT` freed memory stays here.
    """
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    libc.free.restype, libc.free.argtypes = None, (ctypes.c_void_p,)
    blocks = []
    for _ in range(math.ceil(size_bytes / PREFAULT_BLOCK_BYTES)):
        block = libc.malloc(PREFAULT_BLOCK_BYTES)
        if not block:
            break
        blocks.append(block)
        np.ctypeslib.as_array((ctypes.c_uint8 * PREFAULT_BLOCK_BYTES).from_address(block))[:: mmap.PAGESIZE] = 0
    for block in blocks:
        libc.free(block)


def tree_bytes(tree: Any) -> int:
    """Bytes of all arrays, concrete or abstract, of a pytree."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _copy(leaf: Any) -> Any:
    return leaf.copy() if isinstance(leaf, np.ndarray) else jnp.array(leaf, copy=True)


def copies(tree: Any, count: int, copy: Callable[[Any], Any] = _copy) -> list[Any]:
    """`count` copies of a pytree of arrays, of JAX or of NumPy, each in buffers of its own.

    `device_put` would not do: on a CPU it may hand out the same memory again.
    """
    return [jax.tree.map(copy, tree) for _ in range(count)]


class Sweep:
    """Streams through `CACHE_MULTIPLE` caches' worth of memory, so that nothing that was used before is in a cache."""

    def __init__(self, cache_bytes: int):
        # The negation reads one half and writes the other, on as many threads as any kernel uses.
        self._buffer = jnp.ones(max(1, CACHE_MULTIPLE * cache_bytes // 2 // 4), jnp.float32)
        self._negate = jax.jit(jnp.negative).lower(self._buffer).compile()

    def __call__(self) -> None:
        jax.block_until_ready(self._negate(self._buffer))


class Rotation:
    """Hands out input sets in turn; one is seen again only when `CACHE_MULTIPLE` caches' worth went by in between.

    Where the sets are too few or too small for that, `sweep` is called whenever the first one comes around.
    All the variants that take the same inputs share one rotation.
    """

    def __init__(self, sets: list[tuple], cache_bytes: int, sweep: Callable[[], None]):
        self.sets = sets
        self._position = 0
        self._sweep = sweep
        self._must_sweep = len(sets) * tree_bytes(sets[0]) < CACHE_MULTIPLE * cache_bytes

    @staticmethod
    def count(set_bytes: int, cache_bytes: int, budget_bytes: int) -> int:
        """Number of sets: what fills the caches, at most `MAXIMUM_SETS`, in `budget_bytes`, at least one."""
        wanted = math.ceil(CACHE_MULTIPLE * cache_bytes / max(set_bytes, 1)) + 1
        return max(1, min(wanted, MAXIMUM_SETS, budget_bytes // max(set_bytes, 1)))

    def take(self, count: int) -> list[tuple]:
        """The next `count` sets, at most as many as there are."""
        if count > len(self.sets):
            raise ValueError(f"{count} sets at once from a rotation of {len(self.sets)}")
        if self._must_sweep and self._position + count > len(self.sets):
            self._position = 0
        if self._must_sweep and self._position == 0:
            self._sweep()
        start, self._position = self._position, (self._position + count) % len(self.sets)
        return list(itertools.islice(itertools.cycle(self.sets), start, start + count))
