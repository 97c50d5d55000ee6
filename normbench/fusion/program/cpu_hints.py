"""Sentences that name what costs time in a program compiled for a CPU: what its compiler writes for others to read."""

import json
from collections.abc import Sequence
from typing import Any

from normbench.fusion.launches import Launch
from normbench.fusion.program.graph import Program
from normbench.fusion.program.words import megabytes, some

_SHARE = 0.02  # of the bytes of the program: below that nothing is worth a sentence
_ONE_THREAD_BYTES = 1_000_000
"""From here on a second thread pays: it takes a CPU's core some 50 us."""
_REPEATING = {"broadcast", "bitcast", "convert", "copy", "reshape"}


def cpu_hints(program: Program) -> tuple[str, ...]:
    """What only XLA's compiler for CPUs does; of its programs alone."""
    return (*_library_sums(program), *_broadcasts(program), *_one_thread(program.launches))


def _library_sums(program: Program) -> list[str]:
    """Sums that are handed to a library, which reads its operands from memory: what makes them is a launch before."""
    written: dict[int, tuple[int, str]] = {}
    libraries = [launch for launch in program.launches if "ynn" in str(_config(launch).get("fusion_config", ""))]
    for launch in libraries:
        for value, size in launch.reads:
            maker = program.nodes[value].launch
            if maker is not None and size > _SHARE * _moved(program.launches):
                written[value] = size, f"{program.launches[maker].name} ({program.nodes[value].shape})"
    if not written:
        return []
    names = some([name for _, name in sorted(written.values(), key=lambda one: -one[0])])
    return [
        f"sum by a library: its operands come from memory ({some([launch.name for launch in libraries])}), so "
        f"{megabytes(sum(size for size, _ in written.values()))} are written for it by launches of their own and not "
        f"fused into the sum, as others use them too: {names}; jax.lax.optimization_barrier on x parts them"
    ]


def _broadcasts(program: Program) -> list[str]:
    """Launches that do nothing but repeat a smaller array."""
    found = []
    for launch in program.launches:
        repeats = "broadcast" in launch.ops and set(launch.ops) - {"parameter", "fusion"} <= _REPEATING
        if repeats and launch.write_bytes > max(launch.read_bytes, _SHARE * _moved(program.launches)):
            found.append(launch)
    if not found:
        return []
    names = some([f"{one.name} ({megabytes(one.write_bytes)})" for one in sorted(found, key=lambda o: -o.write_bytes)])
    return [
        f"broadcast written out: {megabytes(sum(one.write_bytes for one in found))} that only repeat smaller arrays, "
        f"for a launch that reads its operands from memory: {names}"
    ]


def _one_thread(launches: Sequence[Launch]) -> list[str]:
    """Large launches of XLA's own that it has not divided between threads; what a library does is its own affair."""
    found = []
    for launch in launches:
        config = _config(launch)
        own = launch.instruction.opcode not in ("custom-call", "dot", "convolution") and "fusion_config" not in config
        moved = launch.read_bytes + launch.write_bytes
        if own and moved > _ONE_THREAD_BYTES and not config.get("outer_dimension_partitions"):
            found.append((moved, launch.name))
    if not found:
        return []
    names = some([f"{name} ({megabytes(moved)})" for moved, name in sorted(found, reverse=True)])
    return [f"one thread: the compiler divides no work of {names}"]


def _moved(launches: Sequence[Launch]) -> int:
    return sum(launch.read_bytes + launch.write_bytes for launch in launches)


def _config(launch: Launch) -> dict[str, Any]:
    try:
        found = json.loads(launch.instruction.backend_config or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
