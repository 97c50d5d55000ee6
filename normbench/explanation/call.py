"""A function and its arguments as `jax.jit` takes them, checked before anything is traced."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from normbench.errors import UserError


@dataclass(frozen=True)
class Call:
    """What is traced.

    Attributes:
      name: of the function.
      function: jitted, or to be jitted.
      inputs, keywords: what it is called with.
      notes: sentences about what the arguments became.
    """

    name: str
    function: Callable
    inputs: tuple
    keywords: dict[str, Any]
    notes: tuple[str, ...]


def prepared_call(function: Callable, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
    """Makes of a function and its arguments what `jax.jit` takes.

    A jitted function gets its arguments untouched. For any other one, leaves that are neither arrays nor numbers
    (functions in a module, words) are held fixed, and a function that is itself a pytree (an equinox or nnx module) is
    an argument: its arrays are inputs of the program and no constants in it.

    Raises:
      UserError: for what is no function, for a dtype that JAX has not, and for float64 where `jax_enable_x64` is off.
    """
    if not callable(function):
        raise UserError(f"function is {function!r}; it must be callable")
    notes = tuple(note for path, leaf in _leaves(args, kwargs) if (note := _checked(path, leaf)))
    name, inputs, keywords = name_of(function), tuple(args), dict(kwargs)
    if hasattr(function, "trace"):
        return Call(name, function, inputs, keywords, notes)
    if not jax.tree_util.all_leaves([function]):
        function, inputs = _method(name), (function, *inputs)
    return Call(name, *_without_fixed(function, inputs, keywords), notes)


def name_of(function: Callable) -> str:
    """The name of a function, also inside a `functools.partial`; the name of its class for any other object."""
    inner = function.func if isinstance(function, functools.partial) else function
    return getattr(inner, "__name__", type(inner).__name__)


def _method(name: str) -> Callable:
    def called(module: Any, *args: Any, **kwargs: Any) -> Any:
        return module(*args, **kwargs)

    called.__name__ = called.__qualname__ = name
    return called


def _without_fixed(function: Callable, inputs: tuple, keywords: dict[str, Any]) -> tuple[Callable, tuple, dict]:
    leaves, structure = jax.tree.flatten((inputs, keywords))
    if all(_is_traced(leaf) for leaf in leaves):
        return function, inputs, keywords
    fixed = [None if _is_traced(leaf) else leaf for leaf in leaves]

    def combined(*args: Any, **kwargs: Any) -> Any:
        traced = iter(jax.tree.leaves((args, kwargs)))
        whole = [next(traced) if _is_traced(leaf) else held for leaf, held in zip(leaves, fixed, strict=True)]
        args, kwargs = jax.tree.unflatten(structure, whole)
        return function(*args, **kwargs)

    kept = [leaf if _is_traced(leaf) else None for leaf in leaves]
    inputs, keywords = jax.tree.unflatten(structure, kept)
    return functools.update_wrapper(combined, function), inputs, keywords


def _is_traced(leaf: Any) -> bool:
    """Whether JAX makes an input of a leaf: an array, what stands for one, or a number."""
    is_array = hasattr(leaf, "shape") and hasattr(leaf, "dtype")
    return is_array or isinstance(leaf, bool | int | float | complex) or hasattr(leaf, "__jax_array__")


def _leaves(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Every leaf with its name: argument 0['w'], argument scale."""
    named = [(str(place), value) for place, value in enumerate(args)] + list(kwargs.items())
    return [
        (f"argument {name}{jax.tree_util.keystr(path)}", leaf)
        for name, value in named
        for path, leaf in jax.tree_util.tree_leaves_with_path(value)
    ]


def _checked(name: str, leaf: Any) -> str | None:
    """A note on what JAX makes of the dtype of a leaf, if it is another one.

    Integers in NumPy's arrays become int32 as they do under `jax.jit`; a shape that says int64, and float64 anywhere,
    were asked for, and the program of the narrower dtype is not the one that was meant.
    """
    dtype = getattr(leaf, "dtype", None)
    if dtype is None or not hasattr(leaf, "shape"):
        return None
    becomes = _dtype_in_jax(dtype)
    if becomes is None:
        raise UserError(f"{name} is a {type(leaf).__name__} of {dtype}, which is no dtype of JAX")
    if becomes == dtype:
        return None
    if isinstance(leaf, jax.ShapeDtypeStruct) or (isinstance(leaf, np.ndarray) and dtype.kind in "fc"):
        raise UserError(
            f"{name} is {dtype}, of which JAX makes {becomes} while jax_enable_x64 is off: call "
            f"jax.config.update('jax_enable_x64', True) first, or give {becomes}"
        )
    return f"{name} is {dtype}; the program takes {becomes}, as jax_enable_x64 is off"


def _dtype_in_jax(dtype: Any) -> Any:
    """The dtype that JAX makes of one under the present configuration; None for what it takes not at all."""
    try:
        found = jax.dtypes.canonicalize_dtype(dtype, allow_extended_dtype=True)
    except TypeError:
        return None
    return None if getattr(found, "kind", "") in ("O", "S", "U", "M", "m") else found
