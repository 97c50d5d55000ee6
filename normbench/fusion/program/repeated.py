"""XLA's own cost analysis of a program, with the repetitions of its loops: by itself it counts a loop's body once."""

from collections.abc import Callable, Iterator

from normbench.fusion.hlo import Computation, Instruction, Module
from normbench.fusion.launches import trip_count
from normbench.fusion.wire import message, number, text

_CALLS = ("call", "async-start", "conditional")
Analyse = Callable[[bytes], dict[str, float]]


def repeated_cost(proto: bytes, module: Module, once: dict[str, float], analyse: Analyse) -> dict[str, float]:
    """The costs of `once` (the analysis of the whole module) with every loop of known length counted that often.

    Args:
      proto: the serialized HloModuleProto.
      module: the same, read.
      once: "flops", "bytes accessed", ... by XLA's analysis.
      analyse: XLA's analysis of a serialized HloModuleProto.
    """
    return _with_loops(_Parts(proto, module, analyse), module.entry, once)


class _Parts:
    """The computations of a module, analysed as modules of their own."""

    def __init__(self, proto: bytes, module: Module, analyse: Analyse):
        self.module = module
        self._analyse = analyse
        self._proto = proto

    def cost(self, computation: Computation) -> dict[str, float]:
        return self._analyse(_as_module(self._proto, self._reachable(computation), computation.id))

    def _reachable(self, start: Computation) -> set[int]:
        found, todo = {start.id}, [start]
        while todo:
            for instruction in todo.pop().instructions:
                new = set(instruction.called) - found
                found |= new
                todo += [self.module.computations[one] for one in new]
        return found


def _with_loops(parts: _Parts, computation: Computation, once: dict[str, float]) -> dict[str, float]:
    total = dict(once)
    for loop in _loops(parts.module, computation):
        count = trip_count(loop)
        if count is None:
            continue
        body = parts.module.computations[loop.called[0]]
        alone = parts.cost(body)
        repeated = _with_loops(parts, body, alone)
        for name in total:
            total[name] += count * repeated.get(name, 0.0) - alone.get(name, 0.0)
    return total


def _loops(module: Module, computation: Computation) -> Iterator[Instruction]:
    """The loops of a computation and of what it calls, but those in the bodies of loops."""
    for instruction in computation.instructions:
        if instruction.opcode == "while":
            yield instruction
        elif instruction.opcode in _CALLS:
            for called in instruction.called:
                yield from _loops(module, module.computations[called])


def _as_module(proto: bytes, computations: set[int], entry: int) -> bytes:
    """A HloModuleProto of some of the computations, with another entry."""
    module = message(proto)
    kept = [data for data in module.get(3, []) if isinstance(data, bytes)]
    parts = {number(fields.get(5)): (data, fields) for data in kept for fields in [message(data)]}
    _, fields = parts[entry]
    shape = fields[4][-1]
    assert isinstance(shape, bytes)
    encoded = [_field(1, b"part"), _field(2, text(fields.get(1)).encode())]
    encoded += [_field(17, frames) for frames in module.get(17, [])[-1:] if isinstance(frames, bytes)]
    encoded += [_field(3, data) for key, (data, _) in parts.items() if key in computations]
    return b"".join([*encoded, _field(4, shape), _varint(6 << 3), _varint(entry)])


def _field(place: int, data: bytes) -> bytes:
    return _varint(place << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
