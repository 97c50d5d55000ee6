"""The time of one kernel: what its blocks ask of each resource, and the latency that nothing hides.

For a grid of g blocks on a device of M multiprocessors, of which each holds n blocks at once:

    demand of a block, in seconds of its share of a resource, where all multiprocessors are alike:
      memory  = bytes of device memory / (attained * datasheet bandwidth / busy)
      cache   = bytes that the last-level cache hands out or takes / (its bandwidth / busy)
      port    = the same bytes / (32 bytes a cycle)
      starts  = busy / clock                       one block starts in a cycle, on the whole device
      issue   = warps * instructions / (issued in a cycle)
      shared  = bytes of shared memory, shuffles and first-level cache / (128 bytes a cycle)
    D      = norm(demands)                         the largest, and more where others come close
    serial = the block by itself: what its first warp waits for, then reading and half its issue
    T      = launch + blocks of a multiprocessor * norm(D, serial / n)

with norm(v) = (sum v^6)^(1/6). Full waves and the last one count apart.
"""

from dataclasses import dataclass

from normbench.predict.devices import Device
from normbench.predict.occupancy import Occupancy
from normbench.predict.sass import MachineCode
from normbench.predict.timeline import COPY_IN, COPY_OUT
from normbench.predict.trace import Trace

_EXPONENT = 6.0
_START_CYCLES = 200.0
"""From the end of a block to the first instruction of the next in its place; shaped."""
_RING = 1.3
"""A block that has this many times what it waits for under way fetches ahead."""
_LOOPS = 1.5
_LATENCY = 1.02
_SHUFFLE_BYTES = 128.0
_SASS_OF_PTX = (0.6, 1.6)
"""Between these the count of machine instructions over that of PTX is believed."""
_REUSED, _LOST = 0.2, 0.8
"""Shares of the last-level cache. What the resident blocks read and write takes a share of it: up to the first, all of
it is found there when it is read again; from the second on nothing; shaped."""


@dataclass(frozen=True)
class Work:
    """What a launch moves.

    Attributes:
      read_bytes, write_bytes: across its boundary, once.
      again_bytes: what a hand-written kernel says that it reads or writes beyond that.
    """

    read_bytes: float
    write_bytes: float
    again_bytes: float = 0.0


@dataclass(frozen=True)
class Timing:
    """The time of one kernel, and what it is made of; seconds and bytes.

    Attributes:
      seconds: of the launch.
      demands: seconds of the whole grid by resource.
      pace_s: of the demands together, of a block.
      serial_s: of a block by itself.
      resident: blocks that a multiprocessor has at once, of this grid.
      in_flight_bytes: of a multiprocessor; needed_bytes: what its share of the bandwidth and the latency ask for.
      moved_bytes, cache_bytes: of device memory and through the last-level cache.
      fetches_ahead: whether the block has more under way than it waits for.
    """

    seconds: float
    demands: dict[str, float]
    pace_s: float
    serial_s: float
    resident: int
    in_flight_bytes: float
    needed_bytes: float
    moved_bytes: float
    cache_bytes: float
    fetches_ahead: bool

    @property
    def by_latency(self) -> bool:
        """Whether a block's own time is longer than what it asks of the resources."""
        return self.serial_s / self.resident > _LATENCY * self.pace_s


def norm(values: list[float]) -> float:
    """A maximum that grows where two are close: by 12 % at a tie."""
    most = max(values)
    return most * sum((value / most) ** _EXPONENT for value in values) ** (1 / _EXPONENT) if most > 0 else 0.0


def timing(work: Work, trace: Trace, fit: Occupancy, code: MachineCode | None, threads: int, device: Device) -> Timing:
    """The time of one kernel on a device.

    Args:
      work: what it moves.
      trace: of one block.
      fit: its occupancy.
      code: what ptxas made of it; None where nothing assembled it.
      threads: of a block.
    """
    moved, cached = _bytes(work, trace, fit, device)
    demands = _demands(moved, cached, trace, fit, code, threads, device)
    pace = norm(list(demands.values()))
    ahead = trace.bulk_waits > 2 and trace.bulk_under_way >= _RING * trace.bulk_waited_for
    serial = _serial(work, trace, fit, code, demands, ahead, device)
    resident = min(fit.resident, -(-fit.blocks // device.multiprocessors))
    read_share = work.read_bytes / max(1.0, work.read_bytes + work.write_bytes)
    latency_s = device.memory_cycles / device.clock_hz
    of_block = trace.bulk_under_way if trace.bulk_waits else threads * _thread_in_flight(trace, code)
    return Timing(
        seconds=device.launch_s + _total(pace, serial, fit, ahead, device),
        demands={name: seconds * fit.blocks / device.multiprocessors for name, seconds in demands.items()},
        pace_s=pace,
        serial_s=serial,
        resident=resident,
        in_flight_bytes=resident * of_block,
        needed_bytes=device.memory_bytes_per_s * latency_s / device.multiprocessors * read_share,
        moved_bytes=moved,
        cache_bytes=cached,
        fetches_ahead=ahead,
    )


def _bytes(work: Work, trace: Trace, fit: Occupancy, device: Device) -> tuple[float, float]:
    """Bytes of device memory, and through the last-level cache.

    What is read a second time comes from the cache as far as all that is resident has room there.
    """
    once = work.read_bytes + work.write_bytes
    at_once = min(fit.blocks, fit.resident * device.multiprocessors)
    share = once / fit.blocks * at_once / device.l2_bytes
    lost = min(1.0, max(0.0, (share - _REUSED) / (_LOST - _REUSED)))
    moved = once + lost * work.again_bytes
    through = once + work.again_bytes
    if trace.copies_in_bulk:  # nothing that a bulk copy fetches is kept nearer
        through = max(through, fit.blocks * trace.copies_in_bulk + work.write_bytes)
    return moved, through


def _demands(
    moved: float,
    cached: float,
    trace: Trace,
    fit: Occupancy,
    code: MachineCode | None,
    threads: int,
    device: Device,
) -> dict[str, float]:
    shared = (trace.shared + trace.local + trace.loaded + trace.stored) * threads
    shared += trace.shuffles * fit.warps * _SHUFFLE_BYTES
    return {
        "memory": moved / fit.blocks / (device.attained * device.memory_bytes_per_s / fit.busy),
        "cache": cached / fit.blocks / (device.l2_bytes_per_s / fit.busy),
        "port": cached / fit.blocks / (device.port_bytes_per_cycle * device.clock_hz),
        "starts": fit.busy / device.clock_hz,
        "issue": _issue_s(trace, fit, code, device),
        "shared": shared / (device.shared_bytes_per_cycle * device.clock_hz),
    }


def _issue_s(trace: Trace, fit: Occupancy, code: MachineCode | None, device: Device) -> float:
    low, high = _SASS_OF_PTX
    ratio = min(high, max(low, code.instructions / max(1, trace.decoded))) if code else 1.0
    return fit.warps * trace.walked * ratio / (device.issue_per_cycle * device.clock_hz)


def _thread_in_flight(trace: Trace, code: MachineCode | None) -> float:
    """Bytes that a thread has asked for before it waits: in the order of the machine code, else of the PTX."""
    if code and code.bytes_under_way:
        return code.bytes_under_way
    return (trace.loaded - trace.loaded_of_all) / max(1.0, trace.rounds)


def _serial(
    work: Work,
    trace: Trace,
    fit: Occupancy,
    code: MachineCode | None,
    demands: dict[str, float],
    ahead: bool,
    device: Device,
) -> float:
    cycles = _computing(trace, code) + sum(trace.waits[name] for name in ("load", "barrier", COPY_IN, COPY_OUT))
    own = trace.loaded - trace.loaded_of_all
    if trace.rounds and own and code and code.bytes_under_way:
        # ptxas moves loads ahead of waits: with more under way than the PTX's order has, round trips overlap.
        each = own / trace.rounds
        cycles -= trace.long_waits * (1 - min(1.0, each / code.bytes_under_way))
    if ahead:
        return (cycles + _START_CYCLES) / device.clock_hz
    # In a loop loads stand behind the stores of the turn before; a block's stores hold up none of the next block's.
    moved = work.read_bytes + work.write_bytes
    read_share = 1.0 if trace.loops > _LOOPS else work.read_bytes / max(1.0, moved)
    issue = demands["issue"] if fit.warps > 4 else 2 * trace.issued / device.clock_hz
    read = read_share * norm([demands["memory"], demands["cache"], demands["port"]])
    return (cycles - trace.issued + _START_CYCLES) / device.clock_hz + read + 0.5 * issue


def _computing(trace: Trace, code: MachineCode | None) -> float:
    """Cycles of the first warp without loads, copies and barriers: in the order of the machine code, as often as the
    PTX runs on the average; else in the order of the PTX, which puts less between an instruction and its result."""
    if code is None:
        waits = ("arithmetic", "shuffle", "shared memory")
        return trace.issued + sum(trace.waits[name] for name in waits)
    return code.cycles * trace.walked / max(1, trace.decoded)


def _total(pace: float, serial: float, fit: Occupancy, ahead: bool, device: Device) -> float:
    def with_(blocks: int) -> float:
        return norm([pace, serial / blocks]) if blocks > 1 or ahead else max(pace, serial)

    multiprocessors = device.multiprocessors
    full, rest = divmod(fit.blocks, multiprocessors * fit.resident)
    if full > 3:
        return fit.blocks / multiprocessors * with_(fit.resident) + 0.5 * serial
    total = full * fit.resident * with_(fit.resident)
    if rest:
        last = -(-rest // multiprocessors)
        total += last * with_(last)
    return total
