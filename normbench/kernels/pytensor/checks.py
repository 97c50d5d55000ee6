"""Checks of what a caller hands to the operators of this package, and the dtypes that they compute in."""

import math
from numbers import Real
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.configdefaults import config
from pytensor.scalar import upcast
from pytensor.tensor.variable import TensorVariable

from normbench.errors import UserError

FLOAT_DTYPES = ("float16", "float32", "float64")
WHOLE_DTYPES = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def float_tensors(**values: Any) -> list[Any]:
    """Returns the values as symbolic tensors of floating dtypes.

    Whole numbers, e.g. an image of uint8, are cast to the widest floating dtype among the others, or to `floatX` where
    none of them is floating.

    Arguments that are None stay None.

    Raises:
      UserError: any other dtype, naming the argument.
    """
    tensors = {name: pt.as_tensor_variable(value) for name, value in values.items() if value is not None}
    for name, tensor in tensors.items():
        if tensor.type.dtype not in FLOAT_DTYPES + WHOLE_DTYPES:
            raise UserError(
                f"{name} has dtype {tensor.type.dtype}; allowed: {', '.join(FLOAT_DTYPES)}, or a type of whole numbers"
            )
    floating = [tensor.type.dtype for tensor in tensors.values() if tensor.type.dtype in FLOAT_DTYPES]
    target = upcast(*floating) if floating else config.floatX
    cast = {name: t if t.type.dtype in FLOAT_DTYPES else t.astype(target) for name, t in tensors.items()}
    return [cast.get(name) for name in values]


def float_tensor(name: str, value: Any) -> TensorVariable:
    """`float_tensors` for one value."""
    return float_tensors(**{name: value})[0]


def check_rank(name: str, tensor: TensorVariable, *allowed: int) -> None:
    if tensor.type.ndim not in allowed:
        raise UserError(f"{name} has rank {tensor.type.ndim}; allowed: {', '.join(map(str, allowed))}")


def check_epsilon(epsilon: float) -> float:
    """Epsilon is a number of the graph, not a variable: finite and not negative."""
    if not isinstance(epsilon, Real) or isinstance(epsilon, bool):
        raise UserError(f"epsilon {epsilon!r} is not a number; allowed: a Python float, 0 or more")
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise UserError(f"epsilon {epsilon!r} is not allowed; allowed: 0 or more, finite")
    return float(epsilon)


def check_lengths(sizes: dict[str, int | None]) -> int | None:
    """Returns the one number of channels that the arguments agree on, None where no size is known.

    Raises:
      UserError: naming every argument whose size is known, where two of them differ.
    """
    known = {name: size for name, size in sizes.items() if size is not None}
    if len(set(known.values())) > 1:
        listed = ", ".join(f"{name} {size}" for name, size in known.items())
        raise UserError(f"the numbers of channels differ: {listed}; allowed: the same number for each")
    return next(iter(known.values()), None)


def compute_dtype(*dtypes: str) -> str:
    """The dtype to compute in: the widest of `dtypes`, float32 at least."""
    return upcast("float32", *dtypes)


def number(value: float, dtype: str) -> np.ndarray:
    """A constant of that dtype; PyTensor would give a Python float the dtype of `floatX`."""
    return np.asarray(value, dtype)
