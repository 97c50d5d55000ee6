"""What an instruction does to whole numbers and predicates: addresses, loop counters, comparisons.

Values that depend on data are not known and stay None; so does what is made of them, but for a product with zero.
Numbers are kept as they lie in a register, without a sign, in as many bits as the type has.
"""

import operator
from collections.abc import Callable

from normbench.predict.ptx import Instruction, Kernel

Values = list[int | None]
Effect = Callable[[Values], None]

_BITS = {"8": 8, "16": 16, "32": 32, "64": 64, "128": 128}
_COMPARE = {
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge,
    "lo": operator.lt, "ls": operator.le, "hi": operator.gt, "hs": operator.ge,
}  # fmt: skip
_LOGIC = {"and": operator.and_, "or": operator.or_, "xor": operator.xor}


def _quotient(a: int, b: int) -> int:
    """Rounded towards zero."""
    whole = abs(a) // abs(b)
    return whole if (a < 0) == (b < 0) else -whole


_BINARY: dict[str, Callable[[int, int], int]] = {
    "add": operator.add,
    "sub": operator.sub,
    "and": operator.and_,
    "or": operator.or_,
    "xor": operator.xor,
    "min": min,
    "max": max,
    "shl": lambda a, b: a << min(b, 64),
    "shr": lambda a, b: a >> min(b, 64),
}
_UNARY: dict[str, Callable[[int], int]] = {"neg": operator.neg, "not": operator.invert, "abs": abs}
_DIVIDE = {"div": _quotient, "rem": lambda a, b: a - b * _quotient(a, b)}


def integer_type(part: str) -> tuple[int, bool] | None:
    """Bits of a type of whole numbers, and whether it has a sign; None for another type."""
    bits = _BITS.get(part[1:])
    return (bits, part[0] == "s") if bits and part[0] in "usb" else None


def signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def effect(instruction: Instruction, kernel: Kernel) -> Effect | None:
    """What the instruction does to the values; None for nothing that matters here.

    Memory, barriers and branches are left to the walk.
    """
    op = instruction.parts[0]
    if not instruction.outs:
        return None
    out, sources = instruction.outs[0], list(instruction.sources)
    if op == "setp":
        return _setp(instruction)
    if op == "elect":
        return _elect(instruction, kernel)
    if op == "selp":
        return _select(out, *sources)
    if instruction.parts[-1] == "pred":
        return _predicate(instruction, out, sources)
    if op in ("mov", "cvta") or (op == "shfl" and "idx" in instruction.parts):
        return _copy(out, sources[0]) if _is_plain(instruction) else _forget(instruction)
    if op == "cvt":
        return _convert(instruction, out, sources)
    kind = integer_type(instruction.parts[-1])
    if kind is None or op in ("ld", "st", "atom", "red", "bar", "barrier", "cp", "mbarrier"):
        return _forget(instruction) if op in ("ld", "atom") else None
    return _arithmetic(instruction, out, sources, *kind) or _forget(instruction)


def _is_plain(instruction: Instruction) -> bool:
    return all(not argument.startswith("{") for argument in instruction.arguments)


def _forget(instruction: Instruction) -> Effect:
    outs = instruction.outs

    def run(values: Values) -> None:
        for out in outs:
            values[out] = None

    return run


def _copy(out: int, source: int) -> Effect:
    def run(values: Values) -> None:
        values[out] = values[source]

    return run


def _select(out: int, yes: int, no: int, predicate: int) -> Effect:
    def run(values: Values) -> None:
        chosen = values[predicate]
        values[out] = None if chosen is None else values[yes] if chosen else values[no]

    return run


def _elect(instruction: Instruction, kernel: Kernel) -> Effect:
    """The first thread of each warp is elected."""
    thread = kernel.names.of("%tid.x")
    outs = instruction.outs

    def run(values: Values) -> None:
        values[outs[-1]] = int((values[thread] or 0) % 32 == 0)

    return run


def _convert(instruction: Instruction, out: int, sources: list[int]) -> Effect | None:
    to, of = (integer_type(part) for part in instruction.parts[-2:])
    if to is None or of is None:
        return _forget(instruction) if to else None
    (source,), mask, (bits, sign) = sources, (1 << to[0]) - 1, of

    def run(values: Values) -> None:
        value = values[source]
        if value is not None:
            value = (signed(value, bits) if sign else value & ((1 << bits) - 1)) & mask
        values[out] = value

    return run


def comparison(instruction: Instruction) -> tuple[Callable[[int, int], bool], int, bool] | None:
    """The comparison of whole numbers that a `setp` makes, with their bits and sign; None for another."""
    kind = integer_type(instruction.parts[-1])
    compare = _COMPARE.get(instruction.parts[1])
    return (compare, *kind) if kind and compare else None


def _setp(instruction: Instruction) -> Effect | None:
    known = comparison(instruction)
    outs, (a, b, *third) = instruction.outs, instruction.sources
    if known is None:
        return _forget(instruction)
    compare, bits, sign = known
    mask = (1 << bits) - 1
    logic = _LOGIC.get(instruction.parts[2]) if third else None
    inverted = bool(third) and instruction.arguments[-1].startswith("!")

    def run(values: Values) -> None:
        x, y = values[a], values[b]
        result: int | None = None
        if x is not None and y is not None:
            x, y = (signed(x, bits), signed(y, bits)) if sign else (x & mask, y & mask)
            result = int(compare(x, y))
        if logic is not None:
            other = values[third[0]]
            result = None if result is None or other is None else logic(result, other ^ inverted)
        values[outs[0]] = result
        if len(outs) > 1:
            values[outs[1]] = None if result is None else 1 - result

    return run


def _predicate(instruction: Instruction, out: int, sources: list[int]) -> Effect | None:
    op = instruction.parts[0]
    inverted = [argument.startswith("!") for argument in instruction.arguments[1:]]
    if op == "mov":
        return _copy(out, sources[0])
    if op == "not":

        def negate(values: Values) -> None:
            value = values[sources[0]]
            values[out] = None if value is None else 1 - (value & 1)

        return negate
    logic = _LOGIC.get(op)
    if logic is None:
        return _forget(instruction)
    deciding = {"and": 0, "or": 1}.get(op)

    def run(values: Values) -> None:
        found = [
            None if (v := values[s]) is None else (v & 1) ^ flip for s, flip in zip(sources, inverted, strict=True)
        ]
        if deciding in found:
            values[out] = deciding
        else:
            values[out] = None if None in found else logic(*found)

    return run


def _arithmetic(instruction: Instruction, out: int, sources: list[int], bits: int, sign: bool) -> Effect | None:
    op, parts = instruction.parts[0], instruction.parts
    mask = (1 << bits) - 1
    if op in _BINARY and len(sources) == 2:
        return _binary(op, _BINARY[op], out, sources, mask, bits if sign else 0)
    if op in ("mul", "mad"):
        return _multiply(parts, out, sources, bits, sign)
    if op in _DIVIDE:
        return _divide(_DIVIDE[op], out, sources, mask, bits if sign else 0)
    if op in _UNARY and len(sources) == 1:
        f = _UNARY[op]

        def run(values: Values) -> None:
            value = values[sources[0]]
            values[out] = None if value is None else f(signed(value, bits)) & mask

        return run
    return None


def _binary(op: str, f: Callable, out: int, sources: list[int], mask: int, sign_bits: int) -> Effect:
    a, b = sources
    absorbs = op == "and"
    by_sign = sign_bits and op in ("min", "max", "shr")

    def run(values: Values) -> None:
        x, y = values[a], values[b]
        if x is None or y is None:
            values[out] = 0 if absorbs and (x == 0 or y == 0) else None
        elif by_sign:
            values[out] = f(signed(x, sign_bits), y if op == "shr" else signed(y, sign_bits)) & mask
        else:
            values[out] = f(x & mask, y & mask) & mask

    return run


def _multiply(parts: tuple[str, ...], out: int, sources: list[int], bits: int, sign: bool) -> Effect:
    wide, high = "wide" in parts, "hi" in parts
    mask = (1 << (2 * bits if wide else bits)) - 1

    def run(values: Values) -> None:
        x, y, z = values[sources[0]], values[sources[1]], values[sources[2]] if len(sources) > 2 else 0
        if x == 0 or y == 0:
            product = 0
        elif x is None or y is None:
            values[out] = None
            return
        else:
            product = signed(x, bits) * signed(y, bits) if sign else (x & ((1 << bits) - 1)) * (y & ((1 << bits) - 1))
        values[out] = None if z is None else ((product >> bits if high else product) + z) & mask

    return run


def _divide(f: Callable[[int, int], int], out: int, sources: list[int], mask: int, sign_bits: int) -> Effect:
    a, b = sources

    def run(values: Values) -> None:
        x, y = values[a], values[b]
        if x is None or not y:
            values[out] = None
        elif sign_bits:
            values[out] = f(signed(x, sign_bits), signed(y, sign_bits)) & mask
        else:
            values[out] = f(x & mask, y & mask) & mask

    return run
