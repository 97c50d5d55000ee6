"""Reads the protobuf wire format, without a schema compiler.

XLA's own messages are the one stable and complete description of a compiled program, but no small package on PyPI
carries their classes. Field numbers are append-only, so a decoder of the wire format and the handful of numbers that
are needed stay valid across releases (https://protobuf.dev/programming-guides/encoding).
"""

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class WireError(ValueError):
    """The bytes are no protobuf message."""


def varint(data: bytes, position: int) -> tuple[int, int]:
    """Reads one varint; returns it and the position behind it."""
    value = shift = 0
    while True:
        if position >= len(data):
            raise WireError(f"message ends inside a number at byte {position}")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yields (field number, value) in order; value is an int for numbers and bytes for everything with a length.

    Raises:
      WireError: where `data` is no message.
    """
    position, end = 0, len(data)
    while position < end:
        key, position = varint(data, position)
        number, kind = key >> 3, key & 7
        value: int | bytes
        if kind == _VARINT:
            value, position = varint(data, position)
        elif kind == _BYTES:
            length, position = varint(data, position)
            if position + length > end:
                raise WireError(f"field {number} claims {length} bytes at byte {position} of {end}")
            value, position = data[position : position + length], position + length
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
            value, position = data[position : position + length], position + length
        else:
            raise WireError(f"unknown wire type {kind} at byte {position}")
        yield number, value


def message(data: bytes) -> dict[int, list[int | bytes]]:
    """All fields by number, each with its values in order."""
    result: dict[int, list[int | bytes]] = {}
    for number, value in fields(data):
        result.setdefault(number, []).append(value)
    return result


def integers(values: list[int | bytes]) -> tuple[int, ...]:
    """The values of a repeated integer field, packed or not."""
    result: list[int] = []
    for value in values:
        if isinstance(value, int):
            result.append(value)
            continue
        position = 0
        while position < len(value):
            number, position = varint(value, position)
            result.append(number)
    return tuple(result)


def text(values: list[int | bytes] | None) -> str:
    """The last value of a string field, or the empty string."""
    if not values:
        return ""
    value = values[-1]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def number(values: list[int | bytes] | None, default: int = 0) -> int:
    """The last value of an integer field, or the default."""
    if not values or not isinstance(values[-1], int):
        return default
    return values[-1]
