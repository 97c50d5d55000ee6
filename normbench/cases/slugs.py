"""Names that can be read back: how shapes, dtypes, numbers and options are written in a slug and on a command line.

A slug holds only `[a-z0-9._-]`. Its fields are separated by ".", the options within their field by "-".
"""

import math
import re
from typing import Any

from normbench.errors import UserError, unknown
from normbench.kernels.problem import DTYPES, LAYOUTS

DTYPE_CODES = {"float32": "f32", "float64": "f64", "bfloat16": "bf16", "float16": "f16"}
_DTYPES_BY_CODE = {code: name for name, code in DTYPE_CODES.items()}

OPTION_CODES = {
    "kernel": "k",
    "stride": "s",
    "features": "o",
    "groups": "g",
    "bias": "b",
    "padding": "p",
    "dilation": "d",
    "transposed": "t",
}
_OPTIONS_BY_CODE = {code: name for name, code in OPTION_CODES.items()}

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_SHAPE = re.compile(r"\d+(x\d+)*")
_INT = re.compile(r"m?\d+")
_FLOAT = re.compile(r"m?\d+(p\d+)?(em?\d+)?|m?inf|nan")
_MAX_ELEMENTS = 2**48  # far above any memory, and far below the int64 columns of a run

LAYOUT_BY_RANK = {1: "c", 2: "nc", 3: "ncl", 4: "nchw", 5: "ncdhw"}
"""The layout that is meant where none is given: channels first."""


def parse_shape(text: str) -> tuple[int, ...]:
    """Reads "32x64x56x56".

    Raises:
      UserError: where the text is not one to five sizes joined by "x", or names more than 2**48 elements.
    """
    if not _SHAPE.fullmatch(text):
        raise UserError(f"shape {text!r}: expected sizes >= 0 joined by 'x', e.g. 32x64x56x56")
    if len(text) > 100:
        raise UserError(f"shape {text[:20]!r}...: longer than 100 characters")
    shape = tuple(int(size) for size in text.split("x"))
    if len(shape) not in LAYOUT_BY_RANK:
        raise UserError(f"shape {text!r}: {len(shape)} axes; allowed: 1 to {max(LAYOUT_BY_RANK)}")
    if math.prod(shape) > _MAX_ELEMENTS:
        raise UserError(f"shape {text!r}: {math.prod(shape)} elements; allowed: at most {_MAX_ELEMENTS}")
    return shape


def shape_text(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape)


def parse_dtype(text: str) -> str:
    """Reads "bfloat16" or its short form "bf16"; returns the long form.

    Raises:
      UserError: for any other name.
    """
    name = _DTYPES_BY_CODE.get(text, text)
    if name not in DTYPES:
        raise unknown("dtype", text, (*DTYPES, *DTYPE_CODES.values()))
    return name


def parse_layout(text: str | None, rank: int) -> str:
    """Reads the layout of an array of that rank; None means channels first.

    Raises:
      UserError: for an unknown layout, or one of another rank.
    """
    if text is None:
        return LAYOUT_BY_RANK[rank]
    if text not in LAYOUTS:
        raise unknown("layout", text, LAYOUTS)
    if len(text) != rank:
        allowed = ", ".join(name for name in LAYOUTS if len(name) == rank)
        raise UserError(f"layout {text!r} has {len(text)} axes but the shape has {rank}; allowed: {allowed}")
    return text


def encode_value(value: Any) -> str:
    """Writes a bool, int, float, word, or a tuple of ints or of tuples of ints; `decode_value` reads it back.

    Raises:
      UserError: for anything that would not be read back exactly.
    """
    text = _encode(value)
    if text is None or repr(_decode_or_none(text)) != repr(value):
        raise UserError(
            f"option value {value!r} cannot be written in a slug; allowed: bool, int, float, word, tuple of int"
        )
    return text


def _encode(value: Any) -> str | None:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return repr(value).replace(".", "p").replace("-", "m").replace("+", "")
    if isinstance(value, str):
        return value
    if isinstance(value, tuple):
        items = [_encode_inner(item) for item in value]
        return "x".join(items) + ("x" if len(items) < 2 else "")
    return None


def _encode_inner(item: Any) -> str:
    if isinstance(item, tuple):
        return "_".join(str(part).replace("-", "m") for part in item) + ("_" if len(item) < 2 else "")
    return str(item).replace("-", "m")


def decode_value(text: str) -> Any:
    """Reads what `encode_value` wrote: "yes", "3", "1em05", "same", "3x3", "1_1x0_2".

    Raises:
      UserError: where the text is none of these.
    """
    value = _decode_or_none(text)
    if value is None:
        raise UserError(f"option value {text!r}; allowed: yes, no, a number, a word, or sizes such as 3x3 or 1_1x0_2")
    return value


def _decode_or_none(text: str) -> Any:
    if text in ("yes", "no"):
        return text == "yes"
    if _INT.fullmatch(text):
        return _int(text)
    if _FLOAT.fullmatch(text):
        return float(text.replace("p", ".").replace("m", "-"))
    if re.fullmatch(r"[m\d_x]*x[m\d_x]*", text):
        return _decode_tuple(text)
    return text if _NAME.fullmatch(text) else None


def _decode_tuple(text: str) -> tuple | None:
    items = _split(text, "x")
    try:
        return tuple(tuple(_int(part) for part in _split(item, "_")) if "_" in item else _int(item) for item in items)
    except ValueError:
        return None


def _split(text: str, separator: str) -> list[str]:
    """Splits what was joined with a trailing separator for fewer than two items."""
    parts = text.split(separator)
    return [part for part in parts if part] if len(parts) <= 2 and "" in parts else parts


def _int(text: str) -> int:
    return int(text.replace("m", "-"))


def encode_options(options: tuple[tuple[str, Any], ...], spatial_axes: int) -> str:
    """Writes options, e.g. "k3-o128-p1-s2"; a name without a letter of its own is written "_name__value"."""
    return "-".join(_encode_option(name, value, spatial_axes) for name, value in options)


def _encode_option(name: str, value: Any, spatial_axes: int) -> str:
    if name not in OPTION_CODES:
        return f"_{check_name('option', name)}__{encode_value(value)}"
    return OPTION_CODES[name] + _encode_coded(name, value, spatial_axes)


def _encode_coded(name: str, value: Any, spatial_axes: int) -> str:
    uniform = _uniform(name, value, spatial_axes)
    if uniform is not None:
        return encode_value(uniform)
    plain = encode_value(value)
    # A bare number stands for a uniform tuple, so an option that was given as a number says so.
    return plain + "i" if name in _SPATIAL and isinstance(value, int) and not isinstance(value, bool) else plain


_SPATIAL = ("kernel", "stride", "dilation", "padding")


def _expand(name: str, value: int, spatial_axes: int) -> tuple:
    return ((value, value) if name == "padding" else value,) * spatial_axes


def _uniform(name: str, value: Any, spatial_axes: int) -> int | None:
    """The number that a tuple repeats for every spatial axis, or None."""
    if name not in _SPATIAL or spatial_axes < 1 or not isinstance(value, tuple) or len(value) != spatial_axes:
        return None
    first = value[0][0] if isinstance(value[0], tuple) and value[0] else value[0]
    if type(first) is not int or repr(_expand(name, first, spatial_axes)) != repr(value):
        return None
    return first


def decode_options(text: str, spatial_axes: int) -> tuple[tuple[str, Any], ...]:
    """Reads what `encode_options` wrote.

    Raises:
      UserError: for an unknown letter or value.
    """
    return tuple(_decode_option(part, spatial_axes) for part in text.split("-"))


def _decode_option(text: str, spatial_axes: int) -> tuple[str, Any]:
    if text.startswith("_"):
        full_name, _, plain = text[1:].partition("__")
        return full_name, decode_value(plain)
    if text[:1] not in _OPTIONS_BY_CODE:
        raise unknown("option", text, (f"{code} ({name})" for name, code in OPTION_CODES.items()))
    name, rest = _OPTIONS_BY_CODE[text[0]], text[1:]
    if name in _SPATIAL and rest.endswith("i") and _INT.fullmatch(rest[:-1]):
        return name, _int(rest[:-1])
    value = decode_value(rest)
    return name, _expand(name, value, spatial_axes) if name in _SPATIAL and type(value) is int else value


def check_name(kind: str, name: str) -> str:
    """Returns `name` where it can stand in a slug.

    Raises:
      UserError: where it holds more than lower-case letters, digits and single underscores.
    """
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{kind} name {name!r}: allowed are lower-case letters, digits and single underscores between them"
        )
    return name
