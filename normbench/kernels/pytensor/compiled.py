"""Operators compiled by PyTensor for given shapes: functions of NumPy arrays, or to be called in a JAX function.

>>> f = host_function("numba", "batch_norm", False, x, gamma, beta, mean, variance, epsilon=1e-5, activation="none")
>>> y = f(x, gamma, beta, mean, variance)
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytensor
import pytensor.tensor as pt
from pytensor.compile.mode import get_mode

from normbench.kernels.pytensor.contained import jax_mode
from normbench.kernels.pytensor.graphs import GRAPHS, PREFOLDED

Types = tuple[tuple[tuple[int, ...], str] | None, ...]
_MODES = {"jax": jax_mode, "numba": lambda: get_mode("NUMBA"), "c": lambda: get_mode("CVM")}


def host_function(backend: str, operator: str, prefolded: bool, *arrays: Any, **keywords: Any) -> Callable[..., Any]:
    """Returns the function of NumPy arrays that PyTensor compiles for these shapes and dtypes.

    Args:
      backend: "jax", "numba" or "c".
      operator: a key of `GRAPHS`, or of `PREFOLDED` where `prefolded`.
      arrays: anything with `shape` and `dtype`, in the order of the signature; None for an argument left out, which
        the function does not take either.
      keywords: the operator's own.

    The function trusts its input: it takes arrays of exactly these dtypes, C-contiguous.
    """
    types = tuple(None if array is None else (tuple(array.shape), str(array.dtype)) for array in arrays)
    return _compiled(backend, operator, prefolded, types, tuple(sorted(keywords.items())))


def in_jax(operator: str, prefolded: bool, *arrays: Any, **keywords: Any) -> Any:
    """Calls within a JAX function what PyTensor's JAX backend makes of the graph: it can be traced, and so be compiled
    for any target. PyTensor's own `f(...)` is left out."""
    import jax

    with jax.ensure_compile_time_eval():  # constants of the graph are arrays, not values of the function being traced
        f = host_function("jax", operator, prefolded, *arrays, **keywords)
    return f.vm.jit_fn(*(array for array in arrays if array is not None))[0]  # type: ignore[attr-defined]


@cache
def _compiled(
    backend: str, operator: str, prefolded: bool, types: Types, keywords: tuple[tuple[str, Any], ...]
) -> Callable[..., Any]:
    symbols = [kind and pt.tensor(f"a{index}", shape=kind[0], dtype=kind[1]) for index, kind in enumerate(types)]
    graph = (PREFOLDED if prefolded else GRAPHS)[operator]
    inputs = [symbol for symbol in symbols if symbol is not None]
    return pytensor.function(inputs, graph(*symbols, **dict(keywords)), mode=_MODES[backend](), trust_input=True)
