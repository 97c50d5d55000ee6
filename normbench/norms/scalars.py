"""The values of scalars that a program works out of constants: n - ddof, 1/n, epsilon, an exponent."""

import math
import struct
from collections.abc import Callable

from normbench.fusion.hlo import ATTRIBUTES
from normbench.fusion.wire import integers, message
from normbench.norms.values import Values

_ALIKE = frozenset(["broadcast", "reshape", "convert", "bitcast", "transpose"])
_ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b if b else math.nan,
    "maximum": max,
    "minimum": min,
}
_FUNCTIONS: dict[str, Callable[[float], float]] = {
    "sqrt": lambda a: math.sqrt(a) if a >= 0 else math.nan,
    "negate": lambda a: -a,
    "abs": abs,
}
_DEPTH = 12


def scalar(values: Values, value: int, depth: int = 0) -> float | None:
    """The number that every element of a value is; None where it is not the same constant in all of them.

    Of a selection (n - ddof where that is more than zero) it is that of the first finite alternative.
    """
    one = values[value]
    if depth > _DEPTH:
        return None
    if one.opcode == "constant":
        return _literal(one.instruction.attributes.get(ATTRIBUTES["literal"]), one.elements)
    operands = one.operands[1:] if one.opcode == "select" else one.operands
    if one.opcode in _ALIKE:
        return scalar(values, operands[0], depth + 1)
    if one.opcode not in (*_ARITHMETIC, *_FUNCTIONS, "select"):
        return None
    found = [scalar(values, operand, depth + 1) for operand in operands]
    if one.opcode == "select":
        return next((number for number in found if number is not None and math.isfinite(number)), None)
    known = [number for number in found if number is not None]
    if len(known) < len(found):
        return None
    return (
        _ARITHMETIC[one.opcode](known[0], known[1]) if one.opcode in _ARITHMETIC else _FUNCTIONS[one.opcode](known[0])
    )


def _literal(data: int | bytes | None, elements: int) -> float | None:
    """Of a LiteralProto of one element: floats in field 8, doubles in 9, integers in 4 to 7,
    halves in 11 and 13."""
    if not isinstance(data, bytes) or elements != 1:
        return None
    fields = message(data)
    for place, code, size in ((8, "<f", 4), (9, "<d", 8)):
        raw = fields.get(place, [None])[-1]
        if isinstance(raw, bytes) and len(raw) == size:
            return float(struct.unpack(code, raw)[0])
        if isinstance(raw, int):
            return float(struct.unpack(code, raw.to_bytes(size, "little"))[0])
    for place, code in ((11, "<e"), (13, "")):  # float16, and bfloat16: the upper half of a float32
        raw = fields.get(place, [None])[-1]
        if isinstance(raw, bytes) and len(raw) == 2:
            return float(struct.unpack(code, raw)[0] if code else struct.unpack("<f", b"\0\0" + raw)[0])
    for place in (4, 5, 6, 7):
        if place in fields:
            whole = integers(fields[place])
            return float(_signed(whole[0])) if len(whole) == 1 else None
    return None


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
