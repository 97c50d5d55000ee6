"""An optimised HLO module as plain records, read from its serialized proto.

Field numbers are those of openxla/xla `xla/service/hlo.proto` and `xla/xla_data.proto`.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

from normbench.fusion.wire import integers, message, number, text

_ELEMENT_BITS = {
    1: 8, 2: 8, 3: 16, 4: 32, 5: 64, 6: 8, 7: 16, 8: 32, 9: 64, 10: 16, 11: 32, 12: 64, 15: 64, 16: 16, 18: 128,
    19: 8, 20: 8, 21: 4, 22: 4, 23: 8, 24: 8, 25: 8, 26: 2, 27: 2, 28: 8, 29: 8, 32: 4, 33: 8,
}  # fmt: skip
_ELEMENT_NAMES = {
    1: "pred", 2: "s8", 3: "s16", 4: "s32", 5: "s64", 6: "u8", 7: "u16", 8: "u32", 9: "u64", 10: "f16", 11: "f32",
    12: "f64", 13: "tuple", 14: "opaque", 15: "c64", 16: "bf16", 17: "token", 18: "c128", 19: "f8e5m2",
    20: "f8e4m3fn", 21: "s4", 22: "u4", 23: "f8e4m3b11fnuz", 24: "f8e5m2fnuz", 25: "f8e4m3fnuz", 26: "s2", 27: "u2",
    28: "f8e4m3", 29: "f8e3m4", 32: "f4e2m1fn", 33: "f8e8m0fnu",
}  # fmt: skip
_TUPLE = 13
DEVICE_MEMORY = 0  # xla::Layout::kDefaultMemorySpace
_HOST_MEMORY = 5  # xla::Layout::kHostMemorySpace


@dataclass(frozen=True)
class Shape:
    """An array, a tuple of shapes, or a token.

    Attributes:
      element: name of the element type, e.g. "bf16"; "tuple" for tuples.
      dimensions: sizes.
      minor_to_major: layout; the first entry is the dimension that is contiguous in memory.
      leaves: shapes of a tuple's members.
      memory_space: where it lies: 0 is the device's memory, 5 the host's; a TPU has others (1 is VMEM).
      tiles: of a TPU's layout, outermost first: `T(8,128)(2,1)` is ((8, 128), (2, 1)).
    """

    element: str
    bits: int
    dimensions: tuple[int, ...]
    minor_to_major: tuple[int, ...]
    leaves: tuple["Shape", ...] = ()
    memory_space: int = DEVICE_MEMORY
    tiles: tuple[tuple[int, ...], ...] = ()

    @property
    def on_host(self) -> bool:
        """Whether it lies in the memory of the host."""
        return self.memory_space == _HOST_MEMORY

    @property
    def is_complex(self) -> bool:
        return self.element in ("c64", "c128")

    @property
    def elements(self) -> int:
        return math.prod(self.dimensions)

    @property
    def size_bytes(self) -> int:
        """Bytes of the data; of all members for a tuple."""
        if self.element == "tuple":
            return sum(leaf.size_bytes for leaf in self.leaves)
        return (self.elements * self.bits + 7) // 8

    @property
    def memory_bytes(self) -> int:
        """Bytes that it takes in the device's memory, its tiles filled up; 0 for what lies elsewhere."""
        if self.element == "tuple":
            return sum(leaf.memory_bytes for leaf in self.leaves)
        if self.memory_space != DEVICE_MEMORY:
            return 0
        return (self.padded_elements * self.bits + 7) // 8

    @property
    def padded_elements(self) -> int:
        """Elements with those that fill up the outermost tiles; the tiles inside of these divide them."""
        if not self.tiles or not self.dimensions:
            return self.elements
        sizes = [self.dimensions[dimension] for dimension in reversed(self.minor_to_major)]
        tile = self.tiles[0]
        tiled = [1] * (len(tile) - len(sizes)) + sizes  # a vector is tiled as a matrix of one row
        inner = zip(tiled[len(tiled) - len(tile) :], tile, strict=True)
        return math.prod(tiled[: len(tiled) - len(tile)]) * math.prod(-(-size // side) * side for size, side in inner)

    def __str__(self) -> str:
        if self.element == "tuple":
            return f"({', '.join(str(leaf) for leaf in self.leaves)})"
        return f"{self.element}[{','.join(str(size) for size in self.dimensions)}]"


@dataclass(frozen=True)
class Instruction:
    """One HLO instruction; `operands` and `called` are ids within the module.

    `attributes` holds fields of the proto by number, as they are: what only some opcodes have (`ATTRIBUTES`).
    `origins` are the operations of the numbered module (`normbench.jax_compat.provenance`) that it was made of, each
    with the calls that lead to it, outermost first; empty where the module was not numbered or XLA kept no name.
    `slices` are first, end and step of a static slice, by dimension; empty for anything else.
    """

    id: int
    name: str
    opcode: str
    shape: Shape
    operands: tuple[int, ...]
    called: tuple[int, ...]
    op_name: str
    fusion_kind: str
    custom_call_target: str
    parameter_number: int
    tuple_index: int
    dimensions: tuple[int, ...]
    backend_config: str
    frame: int = 0
    attributes: dict[int, int | bytes] = field(default_factory=dict, compare=False)
    origins: tuple[tuple[int, ...], ...] = ()
    slices: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True)
class Computation:
    """A computation: its instructions in the order of the proto, operands first."""

    id: int
    name: str
    instructions: tuple[Instruction, ...]
    root_id: int

    @cached_property
    def by_id(self) -> dict[int, Instruction]:
        return {instruction.id: instruction for instruction in self.instructions}

    @cached_property
    def users(self) -> dict[int, tuple[Instruction, ...]]:
        users: dict[int, list[Instruction]] = {instruction.id: [] for instruction in self.instructions}
        for instruction in self.instructions:
            for operand in dict.fromkeys(instruction.operands):
                users[operand].append(instruction)
        return {key: tuple(value) for key, value in users.items()}

    @property
    def root(self) -> Instruction:
        return self.by_id[self.root_id]

    @cached_property
    def parameters(self) -> tuple[Instruction, ...]:
        found = [i for i in self.instructions if i.opcode == "parameter"]
        return tuple(sorted(found, key=lambda i: i.parameter_number))


@dataclass(frozen=True)
class Module:
    """A module with its computations by id, the entry, and the order in which each is executed.

    Attributes:
      aliases: number of the argument whose memory an output takes, by the output's place in the flat tuple of results.
      frames: (file, line) of the Python code by the number of a frame, innermost first.
    """

    name: str
    computations: dict[int, Computation]
    entry_id: int
    sequences: dict[int, tuple[int, ...]]
    aliases: dict[int, int] = field(default_factory=dict)
    frames: dict[int, tuple[tuple[str, int], ...]] = field(default_factory=dict)

    @property
    def entry(self) -> Computation:
        return self.computations[self.entry_id]

    def scheduled(self, computation: Computation) -> Iterator[Instruction]:
        """The instructions in the order of execution, where the module is scheduled, else in the order of the proto."""
        order = self.sequences.get(computation.id)
        if not order:
            yield from computation.instructions
            return
        for instruction_id in order:
            yield computation.by_id[instruction_id]


def read_module(proto: bytes) -> Module:
    """Reads a serialized HloModuleProto.

    Raises:
      WireError: where the bytes are no message.
    """
    module = message(proto)
    computations = [_computation(data) for data in module.get(3, []) if isinstance(data, bytes)]
    sequences = _schedule(module[7][-1]) if 7 in module else {}
    return Module(
        name=text(module.get(1)),
        computations={c.id: c for c in computations},
        entry_id=number(module.get(6)),
        sequences=sequences,
        aliases=_aliases(module.get(8)),
        frames=_frames(module.get(17)),
    )


def module_of_dump(proto: bytes) -> bytes:
    """The serialized HloModuleProto in a dumped `*.hlo.pb`, which is a HloProto: its first field."""
    inner = message(proto)[1][-1]
    assert isinstance(inner, bytes)
    return inner


def read_hlo_dump(proto: bytes) -> Module:
    """Reads the content of a dumped `*.hlo.pb`."""
    return read_module(module_of_dump(proto))


def inlined_entry(module: Module) -> Computation:
    """The entry with every `call` replaced by what it calls, as a nested `jax.jit` leaves them before optimisation."""
    instructions: list[Instruction] = []

    def add(computation: Computation, arguments: tuple[int, ...] | None) -> int:
        new_id: dict[int, int] = {}
        for instruction in computation.instructions:
            operands = tuple(new_id[operand] for operand in instruction.operands)
            if instruction.opcode == "parameter" and arguments is not None:
                new_id[instruction.id] = arguments[instruction.parameter_number]
            elif instruction.opcode == "call":
                new_id[instruction.id] = add(module.computations[instruction.called[0]], operands)
            else:
                new_id[instruction.id] = len(instructions)
                instructions.append(replace(instruction, id=len(instructions), operands=operands))
        return new_id[computation.root_id]

    root = add(module.entry, None)
    return Computation(module.entry.id, module.entry.name, tuple(instructions), root)


def _schedule(data: int | bytes) -> dict[int, tuple[int, ...]]:
    assert isinstance(data, bytes)
    sequences = {}
    for entry in message(data).get(1, []):
        assert isinstance(entry, bytes)
        pair = message(entry)
        inner = pair[2][-1] if 2 in pair else b""
        assert isinstance(inner, bytes)
        sequences[number(pair.get(1))] = integers(message(inner).get(1, []))
    return sequences


def _aliases(values: list[int | bytes] | None) -> dict[int, int]:
    """Of HloInputOutputAliasProto: number of the argument by place of the output."""
    found = {}
    for entry in _messages(values[-1], 1) if values else ():
        place = integers(entry.get(1, []))
        found[place[0] if place else 0] = number(entry.get(2))
    return found


def _frames(values: list[int | bytes] | None) -> dict[int, tuple[tuple[str, int], ...]]:
    """Of StackFrameIndexProto: the chain of (file, line) by the number of a frame, innermost first."""
    if not values or not isinstance(values[-1], bytes):
        return {}
    files = [text([name]) for name in message(values[-1]).get(1, [])]
    locations = [(files[number(at.get(1)) - 1], number(at.get(3))) for at in _messages(values[-1], 3)]
    chains: dict[int, tuple[tuple[str, int], ...]] = {}
    for place, frame in enumerate(_messages(values[-1], 4), start=1):  # a parent stands before its children
        own = locations[number(frame.get(1)) - 1]
        chains[place] = (own, *chains.get(number(frame.get(2)), ()))
    return chains


def _messages(data: int | bytes, number_of_field: int) -> Iterator[dict[int, list[int | bytes]]]:
    assert isinstance(data, bytes)
    for item in message(data).get(number_of_field, []):
        assert isinstance(item, bytes)
        yield message(item)


ATTRIBUTES = {
    "literal": 8, "window": 15, "convolution dimensions": 16, "dot dimensions": 30, "replica groups": 49,
    "feature groups": 50, "batch groups": 58, "device list": 87, "device iota": 92, "device mesh": 93,
}  # fmt: skip
"""Fields of HloInstructionProto that are kept as they are."""


def _computation(data: bytes) -> Computation:
    fields = message(data)
    instructions = tuple(_instruction(item) for item in fields.get(2, []) if isinstance(item, bytes))
    return Computation(number(fields.get(5)), text(fields.get(1)), instructions, number(fields.get(6)))


_NUMBER = re.compile(r"#t(\d+)/")


def without_numbers(text: str) -> str:
    """Names as they were before `normbench.jax_compat.provenance` put numbers into them."""
    return _NUMBER.sub("", text)


def _origins(op_name: str) -> tuple[tuple[int, ...], ...]:
    parts = (tuple(int(found) for found in _NUMBER.findall(part)) for part in op_name.split(";"))
    return tuple(part for part in parts if part)


def _instruction(data: bytes) -> Instruction:
    fields = message(data)
    metadata = message(fields[7][-1]) if 7 in fields and isinstance(fields[7][-1], bytes) else {}
    op_name = text(metadata.get(2))
    is_numbered = "#t" in op_name
    return Instruction(
        id=number(fields.get(35)),
        name=text(fields.get(1)),
        opcode=text(fields.get(2)),
        shape=_shape(fields[3][-1]) if 3 in fields else Shape("token", 0, (), ()),
        operands=integers(fields.get(36, [])),
        called=integers(fields.get(38, [])),
        op_name=without_numbers(op_name) if is_numbered else op_name,
        fusion_kind=text(fields.get(11)),
        custom_call_target=text(fields.get(28)),
        parameter_number=number(fields.get(9)),
        tuple_index=number(fields.get(13)),
        dimensions=integers(fields.get(14, [])),
        backend_config=text(fields.get(43)),
        frame=number(metadata.get(15)),
        attributes={key: fields[key][-1] for key in ATTRIBUTES.values() if key in fields},
        origins=_origins(op_name) if is_numbered else (),
        slices=tuple(_slice(item) for item in fields.get(17, [])),
    )


def _slice(data: int | bytes) -> tuple[int, int, int]:
    assert isinstance(data, bytes)
    fields = message(data)
    return number(fields.get(1)), number(fields.get(2)), number(fields.get(3))


@lru_cache(maxsize=4096)
def _shape(data: int | bytes) -> Shape:
    assert isinstance(data, bytes)
    fields = message(data)
    kind = number(fields.get(2))
    if kind == _TUPLE:
        return Shape("tuple", 0, (), (), tuple(_shape(leaf) for leaf in fields.get(4, [])))
    layout = message(fields[5][-1]) if 5 in fields and isinstance(fields[5][-1], bytes) else {}
    name = _ELEMENT_NAMES.get(kind, f"type{kind}")
    return Shape(
        element=name,
        bits=_ELEMENT_BITS.get(kind, 0),
        dimensions=integers(fields.get(3, [])),
        minor_to_major=integers(layout.get(1, [])),
        memory_space=number(layout.get(8)),
        tiles=tuple(_tile(tile) for tile in layout.get(6, [])),
    )


def _tile(data: int | bytes) -> tuple[int, ...]:
    assert isinstance(data, bytes)
    return integers(message(data).get(1, []))
