"""What kind of kernel a launch is, in a word."""

import json
import re

from normbench.fusion.hlo import Instruction, Module, Shape
from normbench.fusion.tpu.launches import PALLAS_CALL
from normbench.fusion.traffic import source

COLLECTIVES = (
    "all-gather", "all-reduce", "all-to-all", "collective-broadcast", "collective-permute", "ragged-all-to-all",
    "reduce-scatter", "send", "recv",
)  # fmt: skip
TRIVIAL = frozenset(["parameter", "constant", "tuple", "get-tuple-element", "bitcast", "broadcast", "iota"])
"""Opcodes that name no work of their own."""

_FUSION_KINDS = {"kLoop": "loop", "kInput": "reduction", "kOutput": "output", "kCustom": "custom"}
_SLICES = {"slice", "dynamic-slice"}
_MOVES = {*_SLICES, "copy"}
_UPDATES = {"dynamic-update-slice", "scatter"}
_PALLAS = ("triton", "mosaic_gpu", PALLAS_CALL)


def inside(module: Module, launch: Instruction) -> tuple[Instruction, ...]:
    """The instructions of a launch: those of the fused computation, or the one that it is."""
    if launch.opcode != "fusion":
        return (launch,)
    return module.computations[launch.called[0]].instructions


def kind(module: Module, launch: Instruction) -> str:
    """What kind of kernel an instruction becomes."""
    opcode = launch.opcode.removesuffix("-start")
    if opcode in COLLECTIVES:
        return "collective"
    if opcode == "copy":
        return "host copy" if touches_host(launch.shape) else "copy"
    if opcode == "custom-call":
        return _custom_call_kind(launch.custom_call_target)
    if opcode in _SLICES or opcode in _UPDATES:
        return "slice" if opcode in _SLICES else "update"
    if opcode in ("broadcast", "iota", "constant"):
        return "fill"
    if opcode == "reduce" and _first_result(launch).tiles:
        return "reduction"
    return _fusion_kind(module, launch) if opcode == "fusion" else opcode


def touches_host(shape: Shape) -> bool:
    """Whether any part of a result lies in the memory of the host."""
    return shape.on_host or any(touches_host(leaf) for leaf in shape.leaves)


def _fusion_kind(module: Module, launch: Instruction) -> str:
    fused, found = module.computations[launch.called[0]], inside(module, launch)
    real = [i.opcode for i in found if i.opcode not in TRIVIAL]
    large = {i.opcode for i in found if i.opcode not in TRIVIAL and i.shape.elements > 1}
    if launch.fusion_kind == "kCustom":
        return _custom_fusion_kind(launch.backend_config, large)
    if real and all(opcode in ("transpose", "copy") for opcode in real):
        return "transpose" if "transpose" in real else "copy"
    if large & _SLICES and large <= _MOVES:
        return "slice"
    if source(fused, fused.root).opcode in _UPDATES:
        return "update"
    if not real and launch.fusion_kind == "kLoop":
        return "fill" if not any(i.opcode == "parameter" and i.shape.elements > 1 for i in found) else "loop"
    if launch.fusion_kind == "kInput" and "reduce" not in real and "transpose" in real:
        return "transpose"
    if launch.fusion_kind == "kInput" and "reduce" not in real:
        return "input"
    if launch.fusion_kind == "kLoop" and "reduce" in real and _first_result(launch).tiles:
        return "reduction"  # which the compiler for TPUs calls a loop, too
    return _FUSION_KINDS.get(launch.fusion_kind, launch.fusion_kind)


def _first_result(launch: Instruction) -> Shape:
    """The first result."""
    return launch.shape.leaves[0] if launch.shape.leaves else launch.shape


def _custom_call_kind(target: str) -> str:
    if is_pallas(target):
        return "pallas"
    if target.startswith("__c") or target.startswith("__onednn") or "cub" in target:
        return "library"
    return "custom call"


def is_pallas(target: str) -> bool:
    """Whether a custom call is a kernel written in Pallas (or in Triton by the user)."""
    return any(name in target for name in _PALLAS)


def _custom_fusion_kind(backend_config: str, large: set[str]) -> str:
    match = re.search(r'"kind":"([^"]+)"', backend_config)
    name = match.group(1) if match else ""
    if "triton" in name:
        return "triton"
    if any(library in name for library in ("cudnn", "cublas", "cutlass", "ynn", "xnn")) or "custom-call" in large:
        return "library"
    if large & _SLICES and large <= _MOVES:
        return "slice"
    if large & _UPDATES:
        return "update"
    if "dynamic" in name or "address" in name:
        return "copy"
    return name.strip("_") or "custom"


def pallas_name(launch: Instruction) -> str:
    """The name that a Pallas kernel was given by its author (its function's, by default); or that of the instruction.

    It stands in the configuration of the call, `{name = "..."}` of MLIR or JSON; on a TPU it is the part of `op_name`
    before the last, "jit(f)/my_kernel/pallas_call".
    """
    scopes = launch.op_name.split("/")[1:-1]
    if launch.custom_call_target == PALLAS_CALL:
        return scopes[-1] if scopes else launch.name
    match = re.search(r'\bname\s*=\s*"([^"]+)"', launch.backend_config)
    if match:
        return match[1]
    try:
        named = json.loads(launch.backend_config or "{}").get("name")
    except (ValueError, AttributeError):
        named = None
    return str(named or launch.name)
