"""The first warp of a block, instruction after instruction: what it issues, what it moves, and what it waits for.

Instructions issue in order, one a cycle at most, and each waits until its sources are there; loads, barriers, bulk
copies and stores have latencies. Nothing else is resident: what other warps and blocks add is the affair of
`normbench.predict.model`. Loops are walked until they repeat themselves, and then skipped: `normbench.predict.repeats`.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from normbench.predict.devices import Device
from normbench.predict.integers import comparison, effect
from normbench.predict.ptx import Instruction, Kernel
from normbench.predict.repeats import Repeats
from normbench.predict.sass import SHUFFLE_CYCLES

_FREE = {"mov", "cvta", "createpolicy", "griddepcontrol", "elect", "prefetch", "nop"}
"""Instructions that the assembler removes, or that cost next to nothing."""
_CYCLES = {
    "fma": 4, "add": 4, "sub": 4, "mul": 4, "mad": 5, "cvt": 6, "rsqrt": 22, "sqrt": 30, "rcp": 22, "ex2": 22,
    "lg2": 22, "tanh": 22, "div": 45, "shfl": SHUFFLE_CYCLES, "setp": 6, "selp": 5,
}  # fmt: skip
"""Until the result of an instruction may be used; shaped, as the latencies of `normbench.predict.devices`."""
_OTHER_CYCLES = 5
_PARAMETER_CYCLES = 8
_BARRIER_CYCLES, _BARRIER_CYCLES_OF_A_WARP = 18.0, 1.5
_POLL_CYCLES = 10
_LONG_CYCLES = 200
"""A wait for a load that is longer than this is a round trip to memory."""
_LIMIT = 300_000
"""Instructions that are walked at most."""
_SHARED_MASK = 0xFFFFFF
_ARRAY_BITS = 36

COPY_IN, COPY_OUT = "copy in", "copy out"


@dataclass
class State:
    """Where the walk stands.

    Attributes:
      values: of the registers, as far as they are known.
      ready: cycle from which each may be used; cause: what it then waits for.
      clock: cycles.
      tally: what has been counted so far.
      barriers: of bulk copies by the place of their barrier: cycle of the arrival, bytes.
      open_stores, stores: cycles at which bulk stores are done, of the group that is open and by closed group.
      open_copies, copies: the same of `cp.async`.
      port_free: cycle from which the bulk engine can start another copy.
      expected: bytes of which the next bulk copy brings the first.
      under_way: bytes of bulk copies that have been started and not waited for.
    """

    values: list[int | None]
    ready: list[float]
    cause: list[str]
    clock: float = 0.0
    tally: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    barriers: dict[int, tuple[float, float]] = field(default_factory=dict)
    open_stores: list[float] = field(default_factory=list)
    stores: list[float] = field(default_factory=list)
    open_copies: list[float] = field(default_factory=list)
    copies: list[float] = field(default_factory=list)
    port_free: float = 0.0
    expected: float = 0.0
    under_way: float = 0.0

    def later(self, cycles: float, since: float) -> None:
        """Moves everything that is still to come, as seen at the cycle `since`, by some cycles."""
        self.clock += cycles
        self.ready = [at + cycles if at > since else at for at in self.ready]
        self.barriers = {key: (at + cycles, size) for key, (at, size) in self.barriers.items()}
        for groups in (self.open_stores, self.stores, self.open_copies, self.copies):
            groups[:] = [at + cycles for at in groups]
        self.port_free += cycles


@dataclass(frozen=True)
class Step:
    """An instruction, ready to be walked."""

    instruction: Instruction
    sources: tuple[int, ...]
    outs: tuple[int, ...]
    effect: Callable[[list[int | None]], None] | None
    free: bool
    act: Callable[["Step", "Walk", float], float] | None
    cycles: float
    cause: str
    compares: tuple | None


class Walk:
    """One walk of the first warp over a kernel.

    Args:
      kernel: decoded.
      block: index of the block in the grid.
      grid, threads: extents.
      small: arrays (by number of their symbol) that are found in the last-level cache.
    """

    def __init__(
        self,
        kernel: Kernel,
        device: Device,
        block: int,
        grid: tuple[int, ...],
        threads: tuple[int, ...],
        small: frozenset[int] = frozenset(),
    ) -> None:
        self.device, self.small = device, small
        self.threads = threads[0] * threads[1] * threads[2]
        self.warps = -(-self.threads // 32)
        special = _special(block, grid, threads)
        for name, value in special.items():
            kernel.names.initial[kernel.names.of(name)] = value
        self.steps = _steps(kernel)
        self.by_block = _varying(kernel, ("%ctaid", "%clusterid", "%smid"))
        self.by_thread = _varying(kernel, ("%tid", "%laneid"), "elect")
        count = len(kernel.names.initial)
        self.state = State(list(kernel.names.initial), [0.0] * count, [""] * count)
        self.truncated = False

    def run(self) -> "Walk":
        """Walks to the end of the kernel, or to the limit."""
        at, walked, steps, end = 0, 0, self.steps, len(self.steps)
        repeats = Repeats()
        state = self.state
        while at < end:
            walked += 1
            if walked > _LIMIT:
                self.truncated = True
                break
            step = steps[at]
            instruction = step.instruction
            runs = self._runs(instruction)
            if instruction.parts[0] == "bra":
                if runs and instruction.target >= 0:
                    if instruction.target <= at and not repeats.turn(at, state):
                        at += 1
                        continue
                    at = instruction.target
                else:
                    repeats.left(at)
                    at += 1
                continue
            at += 1
            if not runs:
                continue
            if instruction.parts[0] in ("ret", "exit"):
                break
            if step.compares:
                repeats.compared(step.compares, state.values)
            self._execute(step)
        return self

    def _runs(self, instruction: Instruction) -> bool:
        """Whether the guard lets it run; what is not known falls through a branch, and runs otherwise."""
        if instruction.guard < 0:
            return True
        value = self.state.values[instruction.guard]
        if value is None:
            return instruction.parts[0] != "bra"
        return bool(value & 1) != instruction.negated

    def _execute(self, step: Step) -> None:
        state = self.state
        state.tally["walked"] += 1
        ready = state.ready
        start, waits = state.clock, -1
        if step.free:
            pass_on = max([ready[s] for s in step.sources], default=0.0)
            cause = next((state.cause[s] for s in step.sources if ready[s] == pass_on), "")
            if step.effect:
                step.effect(state.values)
            for out in step.outs:
                ready[out], state.cause[out] = pass_on, cause
            return
        for source in step.sources:
            if ready[source] > start:
                start, waits = ready[source], source
        if waits >= 0:
            self._waited(state.cause[waits], start - state.clock)
        start += 1
        state.tally["issued"] += 1
        state.clock = start
        if step.effect:
            step.effect(state.values)
        cycles = step.cycles
        if step.act:
            cycles = step.act(step, self, start)
        for out in step.outs:
            ready[out], state.cause[out] = state.clock + cycles, step.cause

    def _waited(self, cause: str, cycles: float) -> None:
        tally = self.state.tally
        tally["wait " + cause] += cycles
        if cause == "load" and cycles > _LONG_CYCLES:
            tally["wait long"] += cycles
            tally["rounds"] += 1

    def wait(self, cause: str, until: float) -> None:
        """The warp stands still until a cycle."""
        if until > self.state.clock:
            self.state.tally["wait " + cause] += until - self.state.clock
            self.state.clock = until


def _special(block: int, grid: tuple[int, ...], threads: tuple[int, ...]) -> dict[str, int]:
    place = (block % grid[0], block // grid[0] % grid[1], block // grid[0] // grid[1])
    found = {"%laneid": 0, "%warpid": 0, "WARP_SZ": 32, "%smid": 0}
    for axis, name in enumerate("xyz"):
        found |= {f"%tid.{name}": 0, f"%ctaid.{name}": place[axis], f"%ntid.{name}": threads[axis]}
        found |= {f"%nctaid.{name}": grid[axis], f"%clusterid.{name}": place[axis], f"%cluster_ctaid.{name}": 0}
    return found


def _varying(kernel: Kernel, registers: tuple[str, ...], op: str = "") -> frozenset[int]:
    """The values that depend, in whatever way, on special registers of these names or on what an instruction gives."""
    found = {index for name, index in kernel.names.index.items() if name.startswith(registers)}
    found.update(out for instruction in kernel.instructions if instruction.parts[0] == op for out in instruction.outs)
    before = -1
    while len(found) != before:
        before = len(found)
        for instruction in kernel.instructions:
            if instruction.guard in found or not found.isdisjoint(instruction.sources):
                found.update(instruction.outs)
    return frozenset(found)


_NO_RESULT = {"st", "red", "bar", "barrier", "fence", "membar", "cp", "mbarrier", "prefetch", "bra", "ret", "exit"}


def _steps(kernel: Kernel) -> list[Step]:
    return [_step(instruction, kernel) for instruction in kernel.instructions]


def _step(instruction: Instruction, kernel: Kernel) -> Step:
    op = instruction.parts[0]
    outs = () if op in _NO_RESULT else instruction.outs
    sources = instruction.sources if op not in _NO_RESULT else (*instruction.outs, *instruction.sources)
    if instruction.guard >= 0:
        sources = (*sources, instruction.guard)
    act: Callable[[Step, Walk, float], float] | None = None
    cycles, cause = float(_CYCLES.get(op, _OTHER_CYCLES)), "arithmetic"
    if op == "shfl":
        act, cause = _shuffle, "shuffle"
    elif op in ("ld", "st", "red", "atom"):
        act, cause = _access(instruction), "load"
        if "shared" in _space(instruction):
            cause = "shared memory"
    elif op in ("bar", "barrier") and "arrive" not in instruction.parts:
        act = _block_barrier
    elif op == "mbarrier":
        act = _memory_barrier
    elif op == "cp" and "async" in instruction.parts:
        act = _bulk if "bulk" in instruction.parts else _asynchronous
    compares = None
    if op == "setp" and (known := comparison(instruction)):
        compares = (known, *instruction.sources[:2])
    return Step(
        instruction=instruction,
        sources=sources,
        outs=outs,
        effect=effect(instruction, kernel),
        free=op in _FREE,
        act=act,
        cycles=cycles,
        cause=cause,
        compares=compares,
    )


def _space(instruction: Instruction) -> str:
    """The memory that an access goes to: param, global, shared, local."""
    for part in instruction.parts[1:]:
        name = part.partition("::")[0]
        if name in ("param", "global", "shared", "local", "const"):
            return name
    return "global"


def _access(instruction: Instruction) -> Callable[[Step, Walk, float], float]:
    lanes = next((int(part[1:]) for part in instruction.parts if re.fullmatch(r"v\d", part)), 1)
    bits = re.search(r"(\d+)$", instruction.parts[-1])
    size = lanes * int(bits[1]) // 8 if bits else 4
    space, loads = _space(instruction), instruction.parts[0] == "ld"
    base, offset = next(_addresses(instruction), (-1, 0))

    def act(step: Step, walk: Walk, start: float) -> float:
        state = walk.state
        if space in ("param", "const"):
            known = state.values[base]
            if loads and known is not None and len(step.outs) == 1:
                state.values[step.outs[0]] = _array_of(known, offset)
            return _PARAMETER_CYCLES
        state.tally[f"{'loaded' if loads else 'stored'} {space}"] += size
        if space == "shared":
            return walk.device.shared_cycles
        if not loads or space == "local":
            return walk.device.l1_cycles
        array = _number(state.values[base])
        state.tally[f"array {array}"] += size
        if base not in walk.by_block:
            state.tally["loaded of all blocks"] += size
            return walk.device.l1_cycles
        return walk.device.l2_cycles if array in walk.small else walk.device.memory_cycles

    return act


def _addresses(instruction: Instruction) -> Iterator[tuple[int, int]]:
    """The values in brackets: index and what is added to it."""
    for argument, group in zip(instruction.arguments, instruction.groups, strict=True):
        if argument.startswith("[") and group:
            match = re.search(r"\+\s*(-?\d+)\s*\]", argument)
            yield group[0], int(match[1]) if match else 0


def _array_of(parameter: int, offset: int) -> int:
    """The made-up address of the array that a parameter points to: one of its own for each place in a parameter."""
    return parameter + (offset << _ARRAY_BITS)


def _number(address: int | None) -> int:
    return -1 if address is None else address >> _ARRAY_BITS


def _shuffle(step: Step, walk: Walk, start: float) -> float:
    walk.state.tally["shuffles"] += 1
    return step.cycles


def _block_barrier(step: Step, walk: Walk, start: float) -> float:
    walk.state.tally["barriers"] += 1
    walk.wait("barrier", start + _BARRIER_CYCLES + _BARRIER_CYCLES_OF_A_WARP * walk.warps)
    return 0.0


def _place(address: tuple[int, int], walk: Walk) -> int:
    """Where a barrier lies in shared memory."""
    index, offset = address
    return ((walk.state.values[index] or 0) + offset) & _SHARED_MASK


def _memory_barrier(step: Step, walk: Walk, start: float) -> float:
    state, parts = walk.state, step.instruction.parts
    if "expect_tx" in parts:
        told = step.instruction.groups[-1][-1]
        by_one = step.instruction.guard >= 0 or told in walk.by_thread
        state.expected = (state.values[told] or 0) * (1 if by_one else walk.threads)
    if "try_wait" in parts or "test_wait" in parts:
        state.values[step.instruction.outs[0]] = 1
        key = _place(next(_addresses(step.instruction)), walk)
        arrival, size = state.barriers.pop(key, (0.0, 0.0))
        state.tally["bulk waits"] += 1
        state.tally["bulk under way"] += state.under_way
        state.tally["bulk waited for"] += size
        state.under_way -= size
        walk.wait(COPY_IN, arrival)
        state.clock += _POLL_CYCLES
    return 0.0


def _bulk(step: Step, walk: Walk, start: float) -> float:
    state, device, instruction = walk.state, walk.device, step.instruction
    parts = instruction.parts
    if "commit_group" in parts:
        state.stores.append(max(state.open_stores, default=start))
        state.open_stores.clear()
    elif "wait_group" in parts:
        newest = state.values[instruction.outs[0]] or 0
        done = state.stores[: len(state.stores) - newest]
        early = device.store_read_cycles if "read" in parts else 0.0
        del state.stores[: max(0, len(state.stores) - newest)]
        state.tally["store waits"] += 1
        walk.wait(COPY_OUT, max(done, default=0.0) - early)
    elif _goes_out(parts):
        size = _size_of_store(step, walk)
        state.tally["bulk stored"] += size
        state.open_stores.append(start + device.store_cycles + size / device.bulk_bytes_per_cycle)
    else:
        _fetch(step, walk, start)
    return 0.0


def _goes_out(parts: tuple[str, ...]) -> bool:
    """Whether the first memory that the copy names, its destination, is the device's."""
    return next((part.partition("::")[0] for part in parts if part.startswith(("global", "shared"))), "") == "global"


def _size_of_store(step: Step, walk: Walk) -> float:
    value = walk.state.values[step.instruction.groups[-1][-1]]
    return float(value) if value is not None and 0 < value < 1 << 20 else 0.0


def _size_of_fetch(step: Step, walk: Walk) -> float:
    """Of a run, as the copy names it: its barrier may be told by one thread of a block that all run the same code, zero
    by the others. Of a tile, whose size its descriptor has, what the threads together expect."""
    state, instruction = walk.state, step.instruction
    if "tensor" in instruction.parts:
        return state.expected
    return float(state.values[instruction.groups[2][-1]] or 0)


def _fetch(step: Step, walk: Walk, start: float) -> None:
    state, device = walk.state, walk.device
    size, state.expected = _size_of_fetch(step, walk), 0.0
    of_all = walk.by_block.isdisjoint(step.instruction.groups[1])
    state.tally["bulk of all blocks" if of_all else "bulk"] += size
    state.port_free = max(start, state.port_free) + size / device.bulk_bytes_per_cycle
    latency = (device.l2_cycles if of_all else device.memory_cycles) + device.bulk_cycles
    *_, barrier = _addresses(step.instruction)
    key = _place(barrier, walk)
    arrival, before = state.barriers.get(key, (0.0, 0.0))
    state.barriers[key] = (max(arrival, state.port_free + latency), before + size)
    state.under_way += size


def _asynchronous(step: Step, walk: Walk, start: float) -> float:
    """`cp.async`: a load into shared memory that a later `wait_group` waits for."""
    state, parts = walk.state, step.instruction.parts
    if "commit_group" in parts:
        state.copies.append(max(state.open_copies, default=start))
        state.open_copies.clear()
    elif "wait_group" in parts or "wait_all" in parts:
        newest = (state.values[step.instruction.outs[0]] or 0) if step.instruction.outs else 0
        done = state.copies[: len(state.copies) - newest]
        del state.copies[: max(0, len(state.copies) - newest)]
        walk.wait(COPY_IN, max(done, default=0.0))
    elif "shared" in "".join(parts):
        size = state.values[step.instruction.groups[-1][-1]] or 4
        state.tally["loaded global"] += size
        state.tally["stored shared"] += size
        state.open_copies.append(start + walk.device.memory_cycles)
    return 0.0
