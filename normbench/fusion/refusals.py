"""Why the compiler did not fuse: the refusals in its own log of fusion decisions, joined to the launches.

XLA's priority fusion writes every decision into `*.priority_fusion_dump.pb` (openxla/xla
`xla/service/gpu/fusion_process_dump.proto`): a producer fused into a consumer, a producer that is not eligible and
why, and the cost model's estimate of the fused and of the separate form. Only what was still refused at the end is
kept: a producer that was fused later, or that ended in the same launch as its consumers, is no refusal.
"""

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from normbench.fusion.hlo import Module, read_hlo_dump
from normbench.fusion.launches import Launch
from normbench.fusion.wire import message, text

_FUSION, _INELIGIBLE, _UPDATE = 4, 5, 6  # fields of a step in the dump

_PLAIN = (
    ("would create a loop fusion", "it ends in a reduction, which has to be complete before the elementwise work "
     "after it can start, and kernels of this kind do not go over their input again"),
    ("both the producer and the consumer contain a reduce", "both contain a reduction, and a kernel of this kind "
     "holds only one"),
    ("only bitcast users", "its only user is a reshape (a bitcast), which the fusion pass does not look through"),
    ("consumer is not fusible", "to the compiler a consumer of it is not fusible (a library call, a result of the "
     "program)"),
    ("producer is not fusible", "to the compiler it is not fusible (a library call, say)"),
    ("can not be tiled", "it would join a Triton kernel, and the two have no common tiling"),
    ("cannot be tiled", "it would join a Triton kernel, and the two have no common tiling"),
    ("too much shared memory", "the fused kernel would need more shared memory than the device has"),
    ("too large", "the fused kernel would be too large"),
)  # fmt: skip
_NOT_A_REFUSAL = ("No users to fuse",)


@dataclass(frozen=True)
class Refusal:
    """One launch that was not fused into the launches that use its result.

    Attributes:
      producer: index of the launch.
      consumers: indices of the launches that use its result.
      operation: the HLO instruction that would have been fused.
      reason: in plain words.
      compiler_reason: in the compiler's own.
    """

    producer: int
    consumers: tuple[int, ...]
    operation: str
    reason: str
    compiler_reason: str

    def sentence(self, launches: tuple[Launch, ...]) -> str:
        names = ", ".join(launches[index].name for index in self.consumers) or "its consumers"
        return f"{launches[self.producer].name} was not fused into {names}: {self.reason}"


@dataclass
class _Log:
    """The state of the decisions while the dump is read: what each name stands for, and what is refused at present."""

    root: dict[str, str] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    reasons: dict[str, str] = field(default_factory=dict)

    def fuse(self, name: str, producer: str, consumer: str) -> None:
        self.root[name] = self.root.get(consumer, consumer)
        self.gone |= {producer, consumer} - {name}

    def refuse(self, producer: str, reason: str) -> None:
        if not any(words in reason for words in _NOT_A_REFUSAL):
            self.reasons[producer] = reason

    def open(self) -> Iterable[tuple[str, str]]:
        for name, reason in self.reasons.items():
            if name not in self.gone:
                yield self.root.get(name, name), reason


def refusals_of_dump(dump: Path, launches: tuple[Launch, ...]) -> tuple[Refusal, ...]:
    """The refusals that stand at the end, from a folder into which XLA has dumped one module."""
    found: dict[tuple[int, str], Refusal] = {}
    befores = sorted(dump.glob("*before_priority-fusion.hlo.pb"))
    for path in sorted(dump.glob("*priority_fusion_dump.pb")):
        before = read_hlo_dump(befores[0].read_bytes()) if befores else None
        for refusal in refusals(path.read_bytes(), before, launches):
            found.setdefault((refusal.producer, refusal.compiler_reason), refusal)
    return tuple(sorted(found.values(), key=lambda refusal: refusal.producer))


def refusals(log: bytes, before: Module | None, launches: tuple[Launch, ...]) -> list[Refusal]:
    """Joins the open refusals of one log to the launches, by the names of the instructions inside them."""
    owners = _Owners(before, launches)
    users = _users(before) if before else {}
    result = []
    for operation, reason in _read(log).open():
        producer = owners.launch_of(operation)
        if producer is None:
            continue
        used_by = {owners.launch_of(user) for user in users.get(base_name(operation), ())}
        consumers = tuple(sorted(index for index in used_by if index is not None and index != producer))
        if before is not None and not consumers:
            continue
        result.append(Refusal(producer, consumers, operation, plain(reason), reason))
    return result


class _Owners:
    """Which launch an instruction of the module before fusion ended in."""

    def __init__(self, before: Module | None, launches: tuple[Launch, ...]):
        self._by_name = {launch.name: launch.index for launch in launches}
        self._by_base = {base_name(member): launch.index for launch in launches for member in launch.members}
        # Fusions that stood before (a Triton kernel, say) are found by what is inside them.
        fusions = [i for i in before.entry.instructions if i.opcode == "fusion"] if before else []
        self._inside = {i.name: before.computations[i.called[0]] for i in fusions} if before else {}

    def launch_of(self, name: str) -> int | None:
        if name in self._inside:
            members = (self._by_base.get(base_name(i.name)) for i in reversed(self._inside[name].instructions))
            found = next((index for index in members if index is not None), None)
            return self._by_name.get(name, found)
        return self._by_name.get(name, self._by_base.get(base_name(name)))


def base_name(instruction: str) -> str:
    """The name that all copies of an instruction share: "reduce_sum.14.1.clone.1" and "reduce_sum.14.0" both give
    "reduce_sum.14"."""
    name = re.sub(r"\.clone(\.\d+)*", "", instruction)
    return re.sub(r"\.\d+$", "", name)


def plain(reason: str) -> str:
    """The compiler's reason in plain words, or its own words where it is a new one."""
    for words, explanation in _PLAIN:
        if words in reason:
            return explanation
    return reason.split("\n")[0][:200]


def _read(log: bytes) -> _Log:
    state = _Log()
    for step in message(log).get(1, []):
        assert isinstance(step, bytes)
        for kind, values in message(step).items():
            value = values[-1]
            if kind not in (_FUSION, _INELIGIBLE, _UPDATE) or not isinstance(value, bytes):
                continue
            fields = message(value)
            if kind == _FUSION:
                state.fuse(text(fields.get(1)), text(fields.get(2)), text(fields.get(3)))
            elif kind == _INELIGIBLE:
                state.refuse(text(fields.get(1)), text(fields.get(2)))
            else:
                _update(state, fields)
    return state


def _update(state: _Log, fields: dict[int, list[int | bytes]]) -> None:
    """An estimate: fusing is refused where it is not expected to pay."""
    name, fused_us, apart_us = text(fields.get(1)), _float(fields.get(3)), _float(fields.get(4))
    if fused_us > apart_us:
        state.refuse(name, f"the compiler expects no gain: {fused_us:.1f} us fused, {apart_us:.1f} us apart")
    else:
        state.reasons.pop(name, None)


def _float(values: list[int | bytes] | None) -> float:
    if not values or not isinstance(values[-1], bytes):
        return 0.0
    return struct.unpack("<f", values[-1])[0]


def _users(before: Module) -> dict[str, set[str]]:
    """Names of the instructions that use each instruction before fusion, by its base name; a bitcast is looked
    through."""
    entry = before.entry
    result: dict[str, set[str]] = {}

    def real_users(identifier: int) -> set[str]:
        names = set()
        for user in entry.users[identifier]:
            names |= real_users(user.id) if user.opcode == "bitcast" else {user.name}
        return names

    for instruction in entry.instructions:
        result.setdefault(base_name(instruction.name), set()).update(real_users(instruction.id))
    return result
