"""The launches of a compiled program: what the device is asked to do, one after the other."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from normbench.fusion.hlo import Computation, Instruction, Module
from normbench.fusion.traffic import operand_bytes, source, write_bytes

NO_LAUNCH = frozenset(
    (
        "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "add-dependency",
        "opt-barrier", "optimization-barrier", "partition-id", "replica-id", "domain",
    )
)  # fmt: skip
"""Opcodes that move no data at the top level of a program."""

_DONE = ("-done", "-update")  # the second half of an asynchronous launch
_FUSION_KINDS = {"kLoop": "loop", "kInput": "reduction", "kOutput": "output", "kCustom": "custom"}
_TRIVIAL = frozenset(["parameter", "constant", "tuple", "get-tuple-element", "bitcast", "broadcast", "iota"])


@dataclass(frozen=True)
class Launch:
    """One device kernel, library call or copy.

    Attributes:
      index: place in the order of execution.
      name: of the HLO instruction.
      kind: loop, reduction, transpose, triton, pallas, library, copy, ... ; what kind of kernel it is.
      ops: HLO opcodes inside, with repetitions, in order.
      members: names of the HLO instructions inside; to join with the compiler's other reports.
      source_ops: JAX operations that they come from.
      read_bytes, write_bytes: what crosses its boundary, for all its repetitions.
      repetitions: how often it runs (in a loop of known length).
      reads: bytes read by value of the entry computation, by instruction id.
    """

    index: int
    name: str
    kind: str
    ops: tuple[str, ...]
    members: tuple[str, ...]
    source_ops: tuple[str, ...]
    read_bytes: int
    write_bytes: int
    repetitions: int
    reads: tuple[tuple[int, int], ...]
    instruction: Instruction


def launches(module: Module) -> tuple[Launch, ...]:
    """All launches in the order of execution; loops of known length count with their repetitions."""
    found = _in_computation(module, module.entry, 1)
    return tuple(replace(launch, index=index) for index, launch in enumerate(found))


def _in_computation(module: Module, computation: Computation, repetitions: int) -> Iterator[Launch]:
    for instruction in module.scheduled(computation):
        opcode = instruction.opcode
        if opcode in NO_LAUNCH or opcode.endswith(_DONE):
            continue
        if opcode == "while":
            inner = [module.computations[c] for c in instruction.called]
            for body in inner:
                yield from _in_computation(module, body, repetitions * trip_count(instruction))
        elif opcode == "conditional":
            # One branch runs: the one that moves most bytes stands for it.
            branches = [list(_in_computation(module, module.computations[c], repetitions)) for c in instruction.called]
            yield from max(branches, key=lambda branch: sum(x.read_bytes + x.write_bytes for x in branch), default=[])
        elif opcode in ("call", "async-start"):
            for called in instruction.called:
                yield from _in_computation(module, module.computations[called], repetitions)
        else:
            yield _launch(module, computation, instruction, repetitions)


def trip_count(loop: Instruction) -> int:
    """Known length of a while loop, or 1 where the compiler does not know it."""
    try:
        config = json.loads(loop.backend_config or "{}")
        return int(config.get("known_trip_count", {}).get("n", 1))
    except (ValueError, AttributeError):
        return 1


def _launch(module: Module, computation: Computation, instruction: Instruction, repetitions: int) -> Launch:
    inside = _inside(module, instruction)
    per_operand = operand_bytes(module, computation, instruction)
    values = [source(computation, computation.by_id[operand]).id for operand in instruction.operands]
    reads = tuple(zip(values, per_operand, strict=False)) if computation.id == module.entry_id else ()
    return Launch(
        index=0,
        name=instruction.name,
        kind=kind(module, instruction),
        ops=tuple(i.opcode for i in inside if i.opcode not in _TRIVIAL) or tuple(i.opcode for i in inside[-1:]),
        members=tuple(i.name for i in inside),
        source_ops=_source_ops(inside),
        read_bytes=sum(per_operand) * repetitions,
        write_bytes=write_bytes(module, computation, instruction) * repetitions,
        repetitions=repetitions,
        reads=reads,
        instruction=instruction,
    )


def _inside(module: Module, instruction: Instruction) -> tuple[Instruction, ...]:
    if instruction.opcode != "fusion":
        return (instruction,)
    return module.computations[instruction.called[0]].instructions


def _source_ops(inside: tuple[Instruction, ...]) -> tuple[str, ...]:
    """Names of the JAX operations, e.g. "reduce_sum" of "jit(f)/jit(main)/reduce_sum", each once."""
    names = (re.sub(r"\[.*", "", i.op_name.rsplit("/", 1)[-1]) for i in inside if "/" in i.op_name)
    return tuple(dict.fromkeys(name for name in names if name and not name.startswith("jit(")))


def kind(module: Module, instruction: Instruction) -> str:
    """What kind of kernel an instruction becomes."""
    if instruction.opcode == "custom-call":
        return _custom_call_kind(instruction.custom_call_target)
    if instruction.opcode != "fusion":
        return {"convolution": "convolution", "dot": "dot"}.get(instruction.opcode, instruction.opcode)
    if instruction.fusion_kind == "kCustom":
        return _custom_fusion_kind(instruction.backend_config)
    inside = _inside(module, instruction)
    real = [i.opcode for i in inside if i.opcode not in _TRIVIAL]
    if real and all(opcode in ("transpose", "copy") for opcode in real):
        return "transpose" if "transpose" in real else "copy"
    if instruction.fusion_kind == "kInput" and "reduce" not in real and "transpose" in real:
        return "transpose"
    if instruction.fusion_kind == "kInput" and "reduce" not in real:
        return "input"
    return _FUSION_KINDS.get(instruction.fusion_kind, instruction.fusion_kind)


def _custom_call_kind(target: str) -> str:
    if "triton" in target or "mosaic_gpu" in target:
        return "pallas"
    if target.startswith("__c") or target.startswith("__onednn") or "cub" in target:
        return "library"
    return "custom call"


def _custom_fusion_kind(backend_config: str) -> str:
    match = re.search(r'"kind":"([^"]+)"', backend_config)
    name = match.group(1) if match else ""
    if "triton" in name:
        return "triton"
    if "cudnn" in name or "cublas" in name or "cutlass" in name:
        return "library"
    if "ynn" in name or "xnn" in name:
        return "library"
    if "dynamic" in name or "address" in name:
        return "copy"
    return name.strip("_") or "custom"
