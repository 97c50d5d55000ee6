"""A function of the user's own and its arguments, as a command line names them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from normbench.errors import UserError, unknown

_DTYPES = {
    "float32": "f32", "float64": "f64", "bfloat16": "bf16", "float16": "f16",
    "int8": "i8", "int16": "i16", "int32": "i32", "int64": "i64",
    "uint8": "u8", "uint16": "u16", "uint32": "u32", "uint64": "u64", "bool": "bool",
    "complex64": "c64", "complex128": "c128", "int4": "i4", "uint4": "u4",
    "float8_e4m3fn": "f8e4m3fn", "float8_e5m2": "f8e5m2",
}  # fmt: skip
"""The dtypes of arguments, with their short names."""
_BY_SHORT_NAME = {short: name for name, short in _DTYPES.items()}

_SCALAR = ("()", "scalar")
_MAX_AXES = 32


def find(role: str, text: str) -> Callable:
    """What MODULE:NAME names; `role` is "function" or "args".

    Raises:
      UserError: where it cannot be imported, does not exist or cannot be called.
    """
    from normbench.study.user_modules import import_module

    module_name, separator, path = text.partition(":")
    if not separator or not module_name or not path:
        raise UserError(f"{role} {text!r}: expected MODULE:NAME, e.g. jax.nn:silu")
    found: Any = import_module(module_name)
    for name in path.split("."):
        if not hasattr(found, name):
            public = [key for key in vars(found) if not key.startswith("_") and callable(getattr(found, key))]
            raise unknown(f"function of {module_name}", name, public[:20])
        found = getattr(found, name)
    if not callable(found):
        raise UserError(f"{role} {text!r} is a {type(found).__name__}, which cannot be called")
    return found


def abstract(shapes: Sequence[str], dtypes: Sequence[str]) -> tuple[Any, ...]:
    """An argument per shape, as `jax.ShapeDtypeStruct`.

    Raises:
      UserError: for what is no shape or no dtype, or another number of dtypes than one or one each.
    """
    import jax
    import jax.numpy as jnp

    if len(dtypes) not in (1, len(shapes)):
        raise UserError(f"{len(dtypes)} --dtype for {len(shapes)} --shape; allowed: one for all, or one for each")
    names = [_dtype(name) for name in (dtypes if len(dtypes) == len(shapes) else list(dtypes) * len(shapes))]
    return tuple(
        jax.ShapeDtypeStruct(_shape(shape), jnp.dtype(name)) for shape, name in zip(shapes, names, strict=True)
    )


def _dtype(text: str) -> str:
    name = _BY_SHORT_NAME.get(text, text)
    if name not in _DTYPES:
        raise unknown("dtype", text, (*_DTYPES, *(short for short in _BY_SHORT_NAME if short not in _DTYPES)))
    return name


def _shape(text: str) -> tuple[int, ...]:
    if text in _SCALAR:
        return ()
    sizes = text.split("x")
    if not all(size.isascii() and size.isdigit() and len(size) <= 15 for size in sizes) or len(sizes) > _MAX_AXES:
        raise UserError(
            f"shape {text[:100]!r}: expected up to {_MAX_AXES} sizes >= 0 joined by 'x', e.g. 32x64x56x56, or () for a "
            "scalar"
        )
    return tuple(int(size) for size in sizes)


def made(text: str) -> tuple[tuple, dict[str, Any]]:
    """The arguments that the function MODULE:NAME makes: it returns one, or a tuple of them, or (args, kwargs): a tuple
    or list and a dict.

    Raises:
      UserError: where there is no such function, or it fails.
    """
    maker = find("args", text)
    try:
        found = maker()
    except (Exception, SystemExit) as error:
        first_line = next(iter(str(error).splitlines()), "")
        raise UserError(f"args {text!r} cannot be called: {type(error).__name__}: {first_line}") from error
    if not isinstance(found, tuple):
        return (found,), {}
    if len(found) == 2 and isinstance(found[0], tuple | list) and _is_keywords(found[1]):
        return tuple(found[0]), dict(found[1])
    return found, {}


def _is_keywords(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(name, str) for name in value)


def called_with(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """The arguments in a few words: (float32[2, 3], scale=float32[])."""
    words = [_words(value) for value in args] + [f"{name}={_words(value)}" for name, value in kwargs.items()]
    return f"({', '.join(words)})"


def _words(value: Any) -> str:
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{value.dtype}{list(value.shape)}"
    return repr(value) if isinstance(value, bool | int | float | complex | str) else type(value).__name__
