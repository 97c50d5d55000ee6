"""What one block of a kernel does, from its PTX: counted once for a kernel and grid, whatever it is asked for."""

from dataclasses import dataclass
from functools import lru_cache

from normbench.predict.devices import Device
from normbench.predict.ptx import decode
from normbench.predict.timeline import COPY_IN, COPY_OUT, Walk

_SMALL = 1 / 6
"""An array of which a block reads less than this of what it reads of the largest is found in the last-level cache."""


@dataclass(frozen=True)
class Trace:
    """One block in the middle of the grid, and its first warp by itself; bytes, cycles.

    Attributes:
      cycles: until the first warp is done, nothing else being resident.
      issued: instructions of that warp, without those that the assembler removes.
      decoded: instructions that the PTX has.
      walked: instructions that ran, repetitions included.
      waits: cycles by what was waited for: load, shared memory, shuffle, arithmetic, barrier, copy in, copy out.
      long_waits: cycles of `waits["load"]` that were round trips to memory; rounds: how many of them.
      loaded, stored: of device memory by one thread; loaded_of_all: what of it all blocks load.
      shared: read and written in shared memory by one thread; local: in local memory.
      shuffles, barriers: of a warp.
      bulk, bulk_of_all: fetched by bulk copies of the block, of its own and of what all blocks fetch.
      bulk_stored: sent by bulk copies.
      bulk_waits: how often the block waits for a bulk copy; bulk_under_way: fetched and not yet there at such a moment;
        bulk_waited_for: what it then waits for.
      store_waits: how often it waits for bulk stores.
      truncated: it was not walked to its end.
    """

    cycles: float
    issued: float
    decoded: int
    walked: float
    waits: dict[str, float]
    long_waits: float
    rounds: float
    loaded: float
    loaded_of_all: float
    stored: float
    shared: float
    local: float
    shuffles: float
    barriers: float
    bulk: float
    bulk_of_all: float
    bulk_stored: float
    bulk_waits: float
    bulk_under_way: float
    bulk_waited_for: float
    store_waits: float
    truncated: bool

    @property
    def copies_in_bulk(self) -> float:
        return self.bulk + self.bulk_of_all

    @property
    def loops(self) -> float:
        """How often an instruction runs, on the average."""
        return max(1.0, self.walked / max(1, self.decoded))


@lru_cache(maxsize=1024)
def trace(ptx: str, grid: tuple[int, ...], threads: tuple[int, ...], device: "_ByName") -> Trace:
    """Walks a kernel; extents have three axes."""
    kernel = decode(ptx)
    blocks = grid[0] * grid[1] * grid[2]
    middle = (grid[0] // 2) % grid[0] + (blocks // 2 // grid[0]) * grid[0] if blocks > 1 else 0

    def walk(small: frozenset[int]) -> Walk:
        return Walk(kernel, device.device, min(middle, blocks - 1), grid, threads, small).run()

    done = walk(frozenset())
    small = _small(done)
    if small:
        done = walk(small)
    return _trace(done, len(kernel.instructions))


@dataclass(frozen=True)
class _ByName:
    """A device as a key: equal where the names are."""

    name: str
    device: Device

    def __hash__(self) -> int:
        return hash(self.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByName) and self.name == other.name


def trace_of(ptx: str, grid: str, block: str, device: Device) -> Trace:
    """The trace of a kernel; extents are sizes joined by "x"."""
    return trace(ptx, _extent(grid), _extent(block), _ByName(device.name, device))


def _extent(sizes: str) -> tuple[int, ...]:
    return (*(int(size) for size in sizes.split("x")), 1, 1)[:3]


def _small(walk: Walk) -> frozenset[int]:
    """The arrays of which a block reads little: the next block reads the same cache lines, or has read them."""
    tally = walk.state.tally
    arrays = {int(name.split()[1]): size for name, size in tally.items() if name.startswith("array ")}
    most = max([*arrays.values(), (tally["bulk"] + tally["bulk of all blocks"]) / walk.threads], default=0.0)
    return frozenset(array for array, size in arrays.items() if size < most * _SMALL)


def _trace(walk: Walk, decoded: int) -> Trace:
    state, tally = walk.state, walk.state.tally
    names = ("load", "shared memory", "shuffle", "arithmetic", "barrier", COPY_IN, COPY_OUT)
    waits = {name: tally["wait " + name] for name in names}
    times = max(1.0, tally["bulk waits"])
    return Trace(
        cycles=max([state.clock, *state.ready]),
        issued=tally["issued"],
        decoded=decoded,
        walked=tally["walked"],
        waits=waits,
        long_waits=tally["wait long"],
        rounds=tally["rounds"],
        loaded=tally["loaded global"],
        loaded_of_all=tally["loaded of all blocks"],
        stored=tally["stored global"],
        shared=tally["loaded shared"] + tally["stored shared"],
        local=tally["loaded local"] + tally["stored local"],
        shuffles=tally["shuffles"],
        barriers=tally["barriers"],
        bulk=tally["bulk"],
        bulk_of_all=tally["bulk of all blocks"],
        bulk_stored=tally["bulk stored"],
        bulk_waits=tally["bulk waits"],
        bulk_under_way=tally["bulk under way"] / times,
        bulk_waited_for=tally["bulk waited for"] / times,
        store_waits=tally["store waits"],
        truncated=walk.truncated,
    )
