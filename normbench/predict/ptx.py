"""The instructions of one PTX kernel, decoded: opcode, guard, arguments, and where a branch leads.

Register names become indices into one list of values, constants and special registers included, so that a walk over
many instructions looks nothing up by name. Labels of inline assembly are local to their braces.
"""

import re
from dataclasses import dataclass, field
from functools import cached_property

SYMBOL_STEP = 1 << 48
"""Distance between the made-up addresses of two symbols, parameters among them: far above what an offset adds."""

_ENTRY = re.compile(r"\.entry\s+[\w$.]+\s*\((?P<parameters>[^)]*)\)")
_BLOCK = re.compile(r"\.(?:reqntid|maxntid)\s+(\d+)(?:,\s*(\d+))?(?:,\s*(\d+))?")
_LABEL = re.compile(r"([$\w]+):\s*")
_GUARD = re.compile(r"@(!?)(%?[\w$]+)\s+")
_OPCODE = re.compile(r"([a-z][\w.:]*)\s*(.*)$", re.DOTALL)
_TOKEN = re.compile(r"%[\w.]+|[A-Za-z_$][\w$]*|0[fd][0-9A-Fa-f]+|-?0[xX][0-9A-Fa-f]+U?|-?\d+U?")
_NO_REGISTER = re.compile(r"0[fd][0-9A-Fa-f]+$")
_DIRECTIVES = (".loc", ".pragma", ".file", ".section", ".reg", ".shared", ".param", ".local", ".branchtargets")


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
      opcode: in full, e.g. "ld.global.v4.b32".
      parts: the same, split at the dots.
      arguments: as they are written, split at the commas outside brackets.
      groups: indices of the values in each argument.
      guard: index of the predicate; -1 for none.
      negated: whether it runs where the predicate is false.
      target: index of the instruction that a branch leads to; -1 for none.
    """

    opcode: str
    parts: tuple[str, ...]
    arguments: tuple[str, ...]
    groups: tuple[tuple[int, ...], ...]
    guard: int
    negated: bool
    target: int

    @property
    def outs(self) -> tuple[int, ...]:
        """Of the first argument: where most instructions put their result."""
        return self.groups[0] if self.groups else ()

    @cached_property
    def sources(self) -> tuple[int, ...]:
        """Of the other arguments."""
        return tuple(index for group in self.groups[1:] for index in group)


@dataclass
class Names:
    """Indices of values by name, and the values that they have from the start."""

    index: dict[str, int] = field(default_factory=dict)
    initial: list[int | None] = field(default_factory=list)
    symbols: int = 0

    def of(self, name: str) -> int:
        """The index of a register, a special register, a constant or a symbol."""
        if name not in self.index:
            self.index[name] = len(self.initial)
            self.initial.append(self._initial(name))
        return self.index[name]

    def _initial(self, name: str) -> int | None:
        if name.startswith("%") or name in ("P1", "_") or _NO_REGISTER.match(name):
            return None
        if name[0].isdigit() or name[0] == "-":
            return int(name.rstrip("U"), 0)
        self.symbols += 1
        return self.symbols * SYMBOL_STEP


@dataclass(frozen=True)
class Kernel:
    """A decoded kernel.

    Attributes:
      instructions: in the order of the text.
      names: of its values.
      block: threads by dimension, where the kernel says.
    """

    instructions: tuple[Instruction, ...]
    names: Names
    block: tuple[int, ...] | None


def decode(text: str) -> Kernel:
    """Decodes a kernel from `.entry` to its closing brace."""
    opening = text.index("{", _end_of_head(text))
    names = Names()
    statements = list(_statements(text[opening + 1 : text.rindex("}")]))
    places = _places(statements)
    runs = [statement for statement in statements if statement[0] == "run"]
    instructions = tuple(
        _instruction(body, names, places, scopes, index) for index, (_, body, scopes) in enumerate(runs)
    )
    block = _BLOCK.search(text[:opening])
    return Kernel(instructions, names, tuple(int(size or 1) for size in block.groups()) if block else None)


def _end_of_head(text: str) -> int:
    match = _ENTRY.search(text)
    return match.end() if match else 0


Statement = tuple[str, str, tuple[int, ...]]
"""("label" or "run", the name or the instruction, the braces around it, outermost first)."""


def _statements(body: str):
    """Labels and instructions in order, without directives and comments."""
    scopes: list[int] = []
    opened = 0
    body = re.sub(r"//[^\n]*", "", body)
    for line in _lines(body):
        rest = line.strip()
        while rest:
            if rest[0] in "{}":
                opened += rest[0] == "{"
                scopes.append(opened) if rest[0] == "{" else scopes and scopes.pop()
                rest = rest[1:].lstrip()
            elif (label := _LABEL.match(rest)) and not rest.startswith("::", label.end() - 1):
                yield "label", label[1], tuple(scopes)
                rest = rest[label.end() :]
            else:
                if not rest.startswith(_DIRECTIVES):
                    yield "run", rest, tuple(scopes)
                break


def _lines(body: str):
    """Statements, each ended by a semicolon; a directive without one ends with its line."""
    held = ""
    for piece in re.split(r"(;|\n)", body):
        if piece == ";":
            yield held
            held = ""
        elif piece == "\n":
            if held.strip().startswith((".loc", ".pragma", ".file", ".section")) or _ends_alone(held):
                yield held
                held = ""
            else:
                held += " "
        else:
            held += piece
    yield held


def _ends_alone(held: str) -> bool:
    """A brace or a label is complete without a semicolon."""
    return re.fullmatch(r"\s*(?:[{}]|[$\w]+:)\s*", held) is not None


def _places(statements: list[Statement]) -> dict[tuple[str, tuple[int, ...]], int]:
    """Index of the instruction that follows each label, by its name and the braces around it."""
    places, count = {}, 0
    for kind, name, scopes in statements:
        if kind == "label":
            places[name, scopes] = count
        else:
            count += 1
    return places


def _instruction(body: str, names: Names, places: dict, scopes: tuple[int, ...], index: int) -> Instruction:
    guard, negated = -1, False
    if match := _GUARD.match(body):
        guard, negated = names.of(match[2]), match[1] == "!"
        body = body[match.end() :]
    match = _OPCODE.match(body)
    opcode, rest = (match[1], " ".join(match[2].split())) if match else ("nop", "")
    parts = tuple(opcode.split("."))
    if parts[0] == "bra":
        target = next(
            (places[rest, scopes[:n]] for n in range(len(scopes), -1, -1) if (rest, scopes[:n]) in places), -1
        )
        return Instruction(opcode, parts, (rest,), (), guard, negated, target)
    arguments = tuple(_split(rest))
    groups = tuple(tuple(names.of(token) for token in _TOKEN.findall(argument)) for argument in arguments)
    return Instruction(opcode, parts, arguments, groups, guard, negated, -1)


def _split(text: str):
    depth, held = 0, ""
    for letter in text:
        depth += (letter in "{[(") - (letter in "}])")
        if letter == "," and depth == 0:
            yield held.strip()
            held = ""
        else:
            held += letter
    if held.strip():
        yield held.strip()
