"""What bounds a kernel, in words."""

from normbench.predict.devices import Device
from normbench.predict.model import Timing
from normbench.predict.occupancy import Occupancy
from normbench.predict.timeline import COPY_IN, COPY_OUT
from normbench.predict.trace import Trace

_KIB = 1024.0
_LAUNCH_SHARE = 0.5
_FEW = 0.9
"""Fewer blocks than this share of the multiprocessors leave some of them idle."""
_UNEVEN = 0.75
"""Below this the average multiprocessor has so much less to do than the busiest that it says so."""


def bound(timing: Timing, trace: Trace, fit: Occupancy, device: Device) -> str:
    """What a kernel waits for most: the first that holds of its start, its grid, a latency, a resource."""
    if device.launch_s > _LAUNCH_SHARE * timing.seconds:
        return f"its start: {_microseconds(device.launch_s)} of {_microseconds(timing.seconds)} us"
    inner = _inner(timing, trace, fit, device)
    grid = _grid(fit, device)
    return f"{grid}; {inner}" if grid else inner


def _inner(timing: Timing, trace: Trace, fit: Occupancy, device: Device) -> str:
    if timing.by_latency:
        return _latency(timing, trace)
    resource = max(timing.demands, key=lambda name: timing.demands[name])
    return _resource(resource, timing, trace, fit, device)


def _grid(fit: Occupancy, device: Device) -> str:
    there = device.multiprocessors
    if fit.blocks < _FEW * there:
        return f"{_count(fit.blocks, 'block')} on {there} multiprocessors"
    most = -(-fit.blocks // there)
    if fit.blocks < _UNEVEN * most * there:
        average = f"{fit.blocks / there:.1f} on the average"
        return f"{fit.blocks} blocks on {there} multiprocessors: {most} on the busiest, {average}"
    return ""


def _latency(timing: Timing, trace: Trace) -> str:
    waits = {
        "memory": trace.waits["load"] + trace.waits[COPY_IN],
        "store": trace.waits[COPY_OUT],
        "barrier": trace.waits["barrier"],
        "shared": trace.waits["shared memory"],
        "shuffle": trace.waits["shuffle"],
        "arithmetic": trace.waits["arithmetic"],
    }
    longest = max(waits, key=lambda name: waits[name])
    if longest == "memory":
        if timing.in_flight_bytes < timing.needed_bytes:
            return f"{_kib(timing.in_flight_bytes)} in flight of {_kib(timing.needed_bytes)} needed"
        trips = max(1.0, trace.rounds, trace.bulk_waits)
        return f"waits for memory, {_count(trips, 'time')} of a block one after the other"
    return {
        "store": f"waits on each store, {_count(trace.store_waits, 'time')} of a block",
        "barrier": f"{_count(trace.barriers, 'barrier')} of a block one after the other",
        "shared": "waits for shared memory",
        "shuffle": f"{_count(trace.shuffles, 'shuffle')} of a warp one after the other",
        "arithmetic": "instructions that wait for each other",
    }[longest]


def _resource(name: str, timing: Timing, trace: Trace, fit: Occupancy, device: Device) -> str:
    moved = max(1.0, timing.moved_bytes)
    if name == "memory":
        share = f"{100 * device.attained:.0f} % of {device.memory_bytes_per_s / 1e12:.2f} TB/s"
        return f"device memory: {_megabytes(timing.moved_bytes)} MB at {share}"
    if name == "cache":
        return (
            f"the last-level cache: {_megabytes(timing.cache_bytes)} MB through it for "
            f"{_megabytes(timing.moved_bytes)} MB of device memory"
        )
    if name == "port":
        return f"{device.port_bytes_per_cycle:.0f} bytes a cycle into and out of a multiprocessor"
    if name == "starts":
        return f"starts of blocks: {fit.blocks} blocks of {timing.moved_bytes / fit.blocks / _KIB:.1f} KiB, one a cycle"
    if name == "issue":
        each = 32 * fit.warps * trace.walked * fit.blocks / moved
        return f"issue of instructions: {each:.1f} for each byte"
    return "shared memory and the first-level cache"


def _count(number: float, noun: str) -> str:
    return f"{number:.0f} {noun}{'' if round(number) == 1 else 's'}"


def _kib(size: float) -> str:
    return f"{size / _KIB:.0f} KiB" if size >= 10 * _KIB else f"{size / _KIB:.1f} KiB"


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.3g}"


def _microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:.1f}"
