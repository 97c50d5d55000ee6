"""The launches of a compiled program: what the device is asked to do, one after the other."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from normbench.fusion.hlo import Computation, Instruction, Module
from normbench.fusion.program import kinds
from normbench.fusion.program.origins import origin
from normbench.fusion.program.products import product_bits, product_flops
from normbench.fusion.program.wires import Collective, collective_of, host_bytes
from normbench.fusion.tpu.launches import NO_DATA, PREFETCH, WRITE_BACK, copy_kind, estimated_cycles
from normbench.fusion.traffic import operand_bytes, padding_bytes, result_shape, workspace_bytes, write_bytes

NO_LAUNCH = frozenset(
    (
        "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "add-dependency",
        "opt-barrier", "optimization-barrier", "partition-id", "replica-id", "domain",
    )
)  # fmt: skip
"""Opcodes that move no data at the top level of a program."""

_DONE = ("-done", "-update")  # the second half of an asynchronous launch


@dataclass(frozen=True)
class Launch:
    """One device kernel, library call or copy.

    Attributes:
      index: place in the order of execution.
      name: of the HLO instruction.
      kind: loop, reduction, transpose, triton, pallas, library, copy, ... ; what kind of kernel it is.
      computation: name of the computation that holds it.
      repetitions: how often it runs; in a loop of unknown length 1.
      repetitions_known: False in a loop of unknown length.
      loop: name of the loop that it runs in, the innermost; None outside of loops.
      branch: "1 of 3 branches" where it stands for a conditional, of which one branch runs.
      ops: HLO opcodes inside, with repetitions, in order; of a Pallas kernel its name.
      source_ops: JAX operations that they come from.
      scope, source: names of the program's part, and file:line, of its main operation.
      flops: operations of the matrix products and convolutions inside, for all repetitions; None for an unknown call.
      product_bits: of the widest number that these multiply, or a call takes; None for others.
      read_bytes, write_bytes: what crosses its boundary, for all its repetitions.
      padding_bytes: of these, what fills up the tiles of a TPU.
      workspace_bytes: scratch memory of a library call.
      wire_bytes: what each device sends in a collective by a ring, or a copy moves from or to the host, for all its
        repetitions.
      reads: (value, bytes of one execution) of its operands, by the number of the value in the program's graph.
      results: numbers of the values that it writes.
      collective: what it sends, once; None for other launches.
      estimated_cycles: by the compiler's own cost model, for all repetitions; None where it gives none.
      ended_before: of one in two halves, the index of the launch that follows its second half.
    """

    index: int
    name: str
    kind: str
    computation: str
    repetitions: int
    repetitions_known: bool
    loop: str | None
    branch: str | None
    ops: tuple[str, ...]
    source_ops: tuple[str, ...]
    scope: str
    source: str
    flops: float | None
    read_bytes: int
    write_bytes: int
    workspace_bytes: int
    wire_bytes: int | None
    reads: tuple[tuple[int, int], ...]
    results: tuple[int, ...]
    instruction: Instruction
    product_bits: int | None = None
    collective: Collective | None = None
    padding_bytes: int = 0
    estimated_cycles: int | None = None
    ended_before: int | None = None

    @property
    def bytes_once(self) -> int:
        """Bytes of one execution."""
        return (self.read_bytes + self.write_bytes) // max(1, self.repetitions)

    @property
    def is_transfer(self) -> bool:
        """Whether it brings data to another device or memory, and leaves computing to the launches beside it."""
        return self.collective is not None or self.kind in (PREFETCH, WRITE_BACK)

    @property
    def asynchronous(self) -> bool:
        """Whether it is a transfer in two halves, so that the device goes on with the launches between them."""
        if self.collective is not None:
            return self.collective.asynchronous
        return self.is_transfer and self.ended_before is not None


def is_launch(instruction: Instruction) -> bool:
    """Whether an instruction at the top level makes the device do something; the first half of an asynchronous one."""
    moves = instruction.opcode not in NO_LAUNCH and instruction.custom_call_target not in NO_DATA
    return moves and not instruction.opcode.endswith(_DONE)


def meanwhile(launches: Sequence[Launch], transfer: Launch) -> tuple[int, ...]:
    """The launches that compute something between the two halves of an asynchronous transfer; () for another."""
    if not transfer.asynchronous or transfer.ended_before is None:
        return ()
    between = launches[transfer.index + 1 : transfer.ended_before]
    return tuple(launch.index for launch in between if not launch.is_transfer)


def trip_count(loop: Instruction) -> int | None:
    """Known length of a while loop; None where the compiler does not know it."""
    try:
        known = json.loads(loop.backend_config or "{}").get("known_trip_count", {}).get("n")
        return None if known is None else int(known)
    except (ValueError, AttributeError):
        return None


@dataclass(frozen=True)
class Place:
    """Where in the program a computation is executed: how often, in which loop, in which branch, and by what
    operation where that starts it and does not wait."""

    repetitions: int = 1
    repetitions_known: bool = True
    loop: str | None = None
    branch: str | None = None
    start: Instruction | None = None


def launch_of(module: Module, computation: Computation, instruction: Instruction, place: Place, index: int) -> Launch:
    """All that is known of one launch but the values that it reads and writes."""
    inside = kinds.inside(module, instruction)
    read = sum(operand_bytes(module, computation, instruction))
    flops = product_flops(module, computation, instruction)
    collective = collective_of(computation, instruction, place.start)
    wire = collective.wire_bytes if collective else host_bytes(computation, instruction)
    found = _kind(module, computation, instruction)
    cycles = estimated_cycles(instruction)
    scope, source = origin(module, inside)
    return Launch(
        index=index,
        name=instruction.name,
        kind=found,
        computation=computation.name,
        repetitions=place.repetitions,
        repetitions_known=place.repetitions_known,
        loop=place.loop,
        branch=place.branch,
        ops=(kinds.pallas_name(instruction),) if found == "pallas" else _ops(inside),
        source_ops=_source_ops(inside),
        scope=scope,
        source=source,
        flops=None if flops is None else flops * place.repetitions,
        product_bits=product_bits(module, computation, instruction),
        read_bytes=read * place.repetitions,
        write_bytes=write_bytes(module, computation, instruction) * place.repetitions,
        padding_bytes=padding_bytes(module, computation, instruction) * place.repetitions,
        workspace_bytes=workspace_bytes(module, computation, instruction),
        wire_bytes=None if wire is None else wire * place.repetitions,
        reads=(),
        results=(),
        instruction=instruction,
        collective=collective,
        estimated_cycles=None if cycles is None else cycles * place.repetitions,
    )


def _kind(module: Module, computation: Computation, instruction: Instruction) -> str:
    found = kinds.kind(module, instruction)
    if found not in ("copy", "slice") or instruction.opcode == "fusion":
        return found
    return copy_kind(computation.by_id[instruction.operands[0]].shape, result_shape(instruction)) or found


def _ops(inside: tuple[Instruction, ...]) -> tuple[str, ...]:
    return tuple(i.opcode for i in inside if i.opcode not in kinds.TRIVIAL) or tuple(i.opcode for i in inside[-1:])


def _source_ops(inside: tuple[Instruction, ...]) -> tuple[str, ...]:
    """Names of the JAX operations, e.g. "reduce_sum" of "jit(f)/jit(main)/reduce_sum", each once."""
    names = (re.sub(r"\[.*", "", i.op_name.rsplit("/", 1)[-1]) for i in inside if "/" in i.op_name)
    return tuple(dict.fromkeys(name for name in names if name and not name.startswith("jit(")))
