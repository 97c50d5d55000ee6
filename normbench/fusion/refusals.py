"""Why the compiler did not fuse: the refusals in its own log of fusion decisions, joined to the launches.

XLA's priority fusion writes every decision into `*.priority_fusion_dump.pb` (openxla/xla
`xla/service/gpu/fusion_process_dump.proto`): a producer fused into a consumer, a producer that is not eligible and
why, and the cost model's estimate of the fused and of the separate form. Only what was still refused at the end is
kept: a producer that was fused later, or that ended in the same launch as its consumers, is no refusal.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from normbench.fusion.hlo import read_hlo_dump
from normbench.fusion.launches import Launch
from normbench.fusion.program.graph import Program, read_graph
from normbench.fusion.program.identity import same_values
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
    """The state of the decisions while the log is read: what is refused at present, by the full name of the producer.

    A name that an instruction of the module after the pass bears was not fused away.
    """

    reasons: dict[str, str] = field(default_factory=dict)

    def fuse(self, name: str, producer: str, consumer: str) -> None:
        for fused in {producer, consumer, name}:  # whatever stays is judged anew, and written down again
            self.reasons.pop(fused, None)

    def refuse(self, producer: str, reason: str) -> None:
        if any(words in reason for words in _NOT_A_REFUSAL):
            self.reasons.pop(producer, None)
        else:
            self.reasons[producer] = reason


def refusals_of_dump(dump: Path, program: Program) -> tuple[Refusal, ...]:
    """The refusals that stand at the end, from a folder into which XLA has dumped one module."""
    logs, afters, befores = (
        sorted(dump.glob(f"*{name}*.pb"))
        for name in ("priority_fusion_dump", "after_priority-fusion", "before_priority-fusion")
    )
    if not logs or not afters or not befores:
        return ()
    stages = (read_graph(read_hlo_dump(paths[-1].read_bytes()), program.branches) for paths in (afters, befores))
    return refusals(logs[-1].read_bytes(), stages, program)


def refusals(log: bytes, stages: Iterable[Program], program: Program) -> tuple[Refusal, ...]:
    """Joins the open refusals of a log to the launches of the optimised program.

    A producer is found by its full name in the module after the pass or, where the pass wrapped it as it was, in the
    module before; and in the optimised program by what it computes. Its consumers are the launches that read that.
    What ended in the launch of its consumers, or is computed by none, is no refusal.

    Args:
      log: the serialized `FusionProcessDumpProto`.
      stages: the module after the pass and the one before, as graphs.
      program: the optimised program.
    """
    reasons = _read(log).reasons
    found: dict[tuple[int, str], Refusal] = {}
    for stage in stages:
        producers = [launch for launch in stage.launches if launch.name in reasons]
        values = same_values(stage, program) if producers else {}
        for launch in producers:
            reason = reasons.pop(launch.name)
            for producer, consumers in _joined(program, [values.get(value) for value in launch.results]).items():
                refusal = Refusal(producer, consumers, launch.name, plain(reason), reason)
                found.setdefault((producer, reason), refusal)
    return tuple(sorted(found.values(), key=lambda refusal: refusal.producer))


def _joined(program: Program, values: list[int | None]) -> dict[int, tuple[int, ...]]:
    """Producer and consumers, of values that were one launch's."""
    users: dict[int, set[int]] = {}
    for value in values:
        producer = None if value is None else program.nodes[value].launch
        if value is not None and producer is not None:
            users.setdefault(producer, set()).update(set(program.users(value)) - {producer})
    return {producer: tuple(sorted(consumers)) for producer, consumers in users.items() if consumers}


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
