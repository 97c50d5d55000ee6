"""A function and its arguments as `jax.jit` takes them, checked before anything is traced."""

import functools
import math
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

    A jitted function gets its arguments untouched. For any other one, of a module, and of what holds leaves that are
    neither arrays nor numbers (functions, words), the arrays are inputs and the rest is held fixed; and a function that
    is itself a pytree (an equinox or nnx module) is an argument: its arrays are inputs of the program, no constants.

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
    values = (*inputs, *(keywords[name] for name in sorted(keywords)))  # in the order of the leaves
    traced = [is_input for value in values for is_input in _inputs_of(value)]
    if all(traced):
        return function, inputs, keywords

    def combined(*args: Any, **kwargs: Any) -> Any:
        given = iter(jax.tree.leaves((args, kwargs)))
        whole = [next(given) if is_input else leaf for leaf, is_input in zip(leaves, traced, strict=True)]
        args, kwargs = jax.tree.unflatten(structure, whole)
        return function(*args, **kwargs)

    kept = [leaf if is_input else None for leaf, is_input in zip(leaves, traced, strict=True)]
    inputs, keywords = jax.tree.unflatten(structure, kept)
    return functools.update_wrapper(combined, function), inputs, keywords


def _inputs_of(value: Any) -> list[bool]:
    """Which leaves of an argument are inputs of the program: arrays, and numbers as far as `jax.jit` would take it.

    Of a module, and of what `jax.jit` would refuse, numbers are settings: a rate, a flag that is asked with `if`.
    """
    leaves = jax.tree.leaves(value)
    is_module = callable(value) and not jax.tree_util.all_leaves([value])
    if is_module or not all(_is_array(leaf) or _is_number(leaf) for leaf in leaves):
        return [_is_array(leaf) for leaf in leaves]
    return [True] * len(leaves)


def _is_array(leaf: Any) -> bool:
    """Whether a leaf is an array, or stands for one."""
    return (hasattr(leaf, "shape") and hasattr(leaf, "dtype")) or hasattr(leaf, "__jax_array__")


def _is_number(leaf: Any) -> bool:
    return isinstance(leaf, bool | int | float | complex)


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
    _require_divided(name, leaf)
    if becomes == dtype:
        return None
    if isinstance(leaf, jax.ShapeDtypeStruct) or (isinstance(leaf, np.ndarray) and dtype.kind in "fc"):
        raise UserError(
            f"{name} is {dtype}, of which JAX makes {becomes} while jax_enable_x64 is off: call "
            f"jax.config.update('jax_enable_x64', True) first, or give {becomes}"
        )
    return f"{name} is {dtype}; the program takes {becomes}, as jax_enable_x64 is off"


def _require_divided(name: str, leaf: Any) -> None:
    """Raises UserError where the sharding of an array does not divide it."""
    sharding = getattr(leaf, "sharding", None)
    if not isinstance(sharding, jax.sharding.NamedSharding):
        return
    for axis, names in enumerate(sharding.spec[: len(leaf.shape)]):
        over = [one for one in (names if isinstance(names, tuple) else (names,)) if isinstance(one, str)]
        parts = math.prod(sharding.mesh.shape[one] for one in over)
        if leaf.shape[axis] % parts:
            raise UserError(
                f"{name} has {leaf.shape[axis]} elements along axis {axis}, which {' x '.join(over)} of the mesh, "
                f"{parts} devices, cannot share evenly: shape {tuple(leaf.shape)}, sharded by {sharding.spec}"
            )


def _dtype_in_jax(dtype: Any) -> Any:
    """The dtype that JAX makes of one under the present configuration; None for what it takes not at all."""
    try:
        found = jax.dtypes.canonicalize_dtype(dtype, allow_extended_dtype=True)
    except TypeError:
        return None
    return None if getattr(found, "kind", "") in ("O", "S", "U", "M", "m") else found
