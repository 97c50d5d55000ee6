"""Sentences that name what costs bytes in a compiled program, each with its figure and, if there is one, a remedy."""

import math
from collections.abc import Sequence

from normbench.fusion.bounds import meets_again, promotions
from normbench.fusion.hlo import Computation, Instruction, Module, inlined_entry
from normbench.fusion.launches import Launch
from normbench.fusion.program.copies import changes_layout, copy_hints
from normbench.fusion.program.cpu_hints import cpu_hints
from normbench.fusion.program.graph import Program
from normbench.fusion.program.kinds import is_pallas
from normbench.fusion.program.made_of import FLOATS, float_sources
from normbench.fusion.program.words import megabytes, some
from normbench.fusion.ptx import Kernel
from normbench.fusion.targets import TPU, Target
from normbench.fusion.tpu.hints import tpu_hints

TRITON_ROW_LIMIT = 16384
"""Longest row, in elements, that XLA's Triton normalization rewriter takes: 16384 gives one launch, 16385 seven
(compiled with jax 0.10.2 to 0.12; the tests hold it)."""

BUSY_BYTES = 2_000_000
"""From here on a launch has work for every multiprocessor of a device."""

_SHARE = 0.02  # of the bytes of the program: below that nothing is worth a sentence


def hints(
    program: Program,
    unoptimised: Module | None,
    on_gpu: bool,
    xla_bytes: int | None,
    kernels: Sequence[Kernel] = (),
    target: Target | None = None,
) -> tuple[str, ...]:
    """All hints for a compiled program.

    Args:
      program: the optimised module as a graph.
      unoptimised: the module before optimisation, where it is at hand.
      on_gpu: whether it was compiled for a GPU.
      xla_bytes: bytes by XLA's own count, where it is at hand.
      kernels: facts of the launches, in their order, where they are at hand.
      target: the device's facts, where they are known.
    """
    found = [*_promotion(program), *_upcasts(program), *_transposes(program), *copy_hints(program, _SHARE)]
    found += [*_calls(program.launches, xla_bytes), *_stacked(program), *_host(program), *_unknown_lengths(program)]
    if target is not None and target.platform == TPU:
        found += tpu_hints(program, _SHARE)
    elif target is not None:
        found += _blocks(program.launches, kernels, target)
    if on_gpu and unoptimised is not None:
        found += _row_length(unoptimised, program.launches)
    if not on_gpu and target is None:
        found += cpu_hints(program)
    return tuple(found)


def _total(launches: Sequence[Launch]) -> int:
    return sum(launch.read_bytes + launch.write_bytes for launch in launches)


def _promotion(program: Program) -> list[str]:
    return [
        f"dtype promotion: the output {one.wide} is wider than the {one.narrow} that it is made of, so "
        f"{megabytes(one.excess_bytes)} more are written than need be; mixed-dtype arithmetic promotes: cast back with "
        ".astype(x.dtype)"
        for one in promotions(program)
    ]


def _upcasts(program: Program) -> list[str]:
    """Arrays between launches in a wider dtype than everything that they are made of."""
    found = []
    outputs = {value for value in program.outputs if value is not None}
    for launch in program.launches:
        for value in dict.fromkeys(launch.results):
            if value in outputs or program.nodes[value].launch != launch.index or not program.users(value):
                continue
            shape = program.nodes[value].shape
            made_of = [program.nodes[one].shape for one in float_sources(program, value, narrower_than=shape.bits)]
            if shape.element in FLOATS and made_of and all(one.bits < shape.bits for one in made_of):
                found.append((shape.memory_bytes * launch.repetitions, launch, shape, made_of[0].element))
    size = sum(size for size, *_ in found)
    if size <= _SHARE * _total(program.launches):
        return []
    if len(found) > 3:
        first = some([f"{launch.name} ({shape})" for _, launch, shape, _ in sorted(found, key=lambda one: -one[0])])
        writers = len({launch.index for _, launch, *_ in found})
        write = "launch writes" if writers == 1 else "launches write"
        return [
            f"materialised upcast: {writers} {write} intermediates in a wider dtype than all that they are made of, "
            f"{megabytes(size)} in all, which later launches read again: {first}"
        ]
    return [
        f"materialised upcast: {launch.name} writes the intermediate {shape} ({megabytes(size)}), which later launches "
        f"read again, where all that it is made of is {narrow}"
        for size, launch, shape, narrow in found
    ]


def _transposes(program: Program) -> list[str]:
    """Large launches that bring data into another order."""
    least = _SHARE * _total(program.launches)
    found = [launch for launch in program.launches if launch.kind == "transpose" or changes_layout(program, launch)]
    if _total(found) <= least:
        return []
    large = [one for one in found if _total([one]) > least]
    if len(found) > 3 or not large:
        names = some([f"{one.name} ({megabytes(_total([one]))})" for one in sorted(found, key=lambda o: -_total([o]))])
        return [
            f"transposed layout: {len(found)} launches move {megabytes(_total(found))} to bring arrays into another "
            f"order, or do so on the way; another layout of the arrays would save it: {names}"
        ]
    return [
        f"transposed layout: {one.name} moves {megabytes(_total([one]))} {_transposing(one)}; another layout of the "
        "arrays would save it"
        for one in large
    ]


def _transposing(launch: Launch) -> str:
    others = set(launch.ops) - {"transpose", "copy", "bitcast"}
    return "only to transpose" if not others else "and transposes on the way"


def _calls(launches: Sequence[Launch], xla_bytes: int | None) -> list[str]:
    """What XLA's analysis does not count: library calls and hand-written kernels."""
    calls = [launch for launch in launches if launch.instruction.opcode == "custom-call"]
    own = [launch for launch in calls if is_pallas(launch.instruction.custom_call_target)]
    others = [launch for launch in calls if launch not in own]
    counted = "" if xla_bytes is None else f" (its total is {megabytes(xla_bytes)})"
    found = []
    if own:
        names = ", ".join(dict.fromkeys(launch.ops[0] for launch in own))
        found.append(
            f"Pallas kernel: XLA's own cost analysis counts zero bytes for {names}{counted}; here the "
            f"{megabytes(_total(own))} of operands and results count"
        )
    if others:
        names = ", ".join(dict.fromkeys(launch.instruction.custom_call_target for launch in others))
        found.append(
            f"library call: XLA's own cost analysis counts zero bytes for {names}{counted}; here their "
            f"{megabytes(_total(others))} of operands and results count{_workspace(others)}"
        )
    return found


def _workspace(calls: list[Launch]) -> str:
    largest = max(launch.workspace_bytes for launch in calls)
    return f", and their scratch memory of up to {megabytes(largest)} does not" if largest else ""


def _stacked(program: Program) -> list[str]:
    """Launches in a loop that only copy what a repetition needs out of arrays that are stacked over the repetitions."""
    found = [
        launch
        for launch in program.launches
        if launch.kind == "slice" and launch.loop and launch.repetitions_known and _is_stacked(program, launch)
    ]
    size, total = _total(found), _total(program.launches)
    if size <= _SHARE * total:
        return []
    return [
        f"stacked arrays: {len(found)} launches in a loop only copy one repetition's part out of arrays that are "
        f"stacked over the {found[0].repetitions} repetitions: {megabytes(size)}, {size / total:.0%} of all bytes; "
        "arrays of their own for each layer, and no loop, would be read where they are"
    ]


def _is_stacked(program: Program, launch: Launch) -> bool:
    """Whether its largest operand is not of the loop's making, and larger than what is read of it."""
    value, size = max(launch.reads, key=lambda read: program.nodes[read[0]].shape.size_bytes)
    node = program.nodes[value]
    outside = node.launch is None or program.launches[node.launch].loop != launch.loop
    return outside and program.started_from(value) == value and size < node.shape.size_bytes


def _host(program: Program) -> list[str]:
    found = [launch for launch in program.launches if launch.kind == "host copy"]
    size = sum(launch.wire_bytes or 0 for launch in found)
    if not size:
        return []
    return [f"host memory: {len(found)} copies move {megabytes(size)} from or to the memory of the host, at its speed"]


def _unknown_lengths(program: Program) -> list[str]:
    found = [launch for launch in program.launches if not launch.repetitions_known]
    loops = ", ".join(dict.fromkeys(str(launch.loop) for launch in found))
    if not found:
        return []
    return [
        f"length unknown: how often {loops} repeats is not known before it runs; its {len(found)} launches count once"
    ]


def _blocks(launches: Sequence[Launch], kernels: Sequence[Kernel], target: Target) -> list[str]:
    """Launches with much to move and fewer blocks than the device has multiprocessors."""
    found = []
    for launch, kernel in zip(launches, kernels, strict=False):
        blocks = math.prod(int(size) for size in kernel.grid.split("x")) if kernel.grid else target.cores
        if blocks < target.cores and launch.bytes_once > BUSY_BYTES:
            found.append((launch.bytes_once, f"{launch.name} ({blocks} blocks, {megabytes(launch.bytes_once)})"))
    if not found:
        return []
    names = some([name for _, name in sorted(found, reverse=True)])
    have = "has" if len(found) == 1 else "have"
    return [
        f"few blocks: of the launches that move more than {megabytes(BUSY_BYTES)}, {len(found)} {have} fewer than "
        f"{target.name} has multiprocessors ({target.cores}): {names}"
    ]


def _row_length(unoptimised: Module, launches: Sequence[Launch]) -> list[str]:
    """The cliff of the Triton normalization rewriter, and the form of the variance that it does not match."""
    if any(launch.kind == "triton" and "reduce" in launch.ops for launch in launches):
        return []
    entry = inlined_entry(unoptimised)
    rows = [_row(entry, instruction) for instruction in entry.instructions if _is_row_normalization(entry, instruction)]
    if not rows:
        return []
    longest = max(rows)
    if longest > TRITON_ROW_LIMIT:
        return [
            f"row length: XLA's Triton normalization rewriter takes rows of up to {TRITON_ROW_LIMIT} elements, and "
            f"these have {longest}; so the program falls into {len(launches)} launches that read the input again"
        ]
    if len(rows) > 1:
        return [
            f"not matched: XLA's Triton normalization rewriter looks for a reduction whose result meets its own input "
            f"again, one after the other; {len(rows)} reductions of the same rows side by side, as in E[x^2] - E[x]^2, "
            "are no such chain"
        ]
    return []


def _is_row_normalization(entry: Computation, instruction: Instruction) -> bool:
    """A reduction over the minor-most dimensions of the largest input, whose result meets the input again."""
    if instruction.opcode != "reduce":
        return False
    operand = entry.by_id[instruction.operands[0]]
    rank = len(operand.shape.dimensions)
    trailing = tuple(range(rank - len(instruction.dimensions), rank))
    largest = max(entry.parameters, key=lambda parameter: parameter.shape.elements, default=None)
    return (
        largest is not None
        and operand.shape.elements >= largest.shape.elements > 1
        and tuple(sorted(instruction.dimensions)) == trailing
        and meets_again(entry, instruction, largest)
    )


def _row(entry: Computation, reduction: Instruction) -> int:
    operand = entry.by_id[reduction.operands[0]]
    length = 1
    for dimension in reduction.dimensions:
        length *= operand.shape.dimensions[dimension]
    return length
