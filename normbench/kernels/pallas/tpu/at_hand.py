"""What all kernels share that make y and the gradients together, where dy is at hand with x."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from normbench.errors import UserError


def checked_cotangents(cotangent: Any, x: jax.Array, dtypes: Sequence[str]) -> list[jax.Array]:
    """The cotangents of the outputs of these dtypes, each in x's shape; one that stands alone is no tuple.

    Raises:
      UserError: for others.
    """
    found = list(cotangent) if len(dtypes) > 1 else [cotangent]
    given = [f"{array.dtype.name}{array.shape}" for array in found]
    allowed = [f"{dtype}{x.shape}" for dtype in dtypes]
    if given != allowed:
        raise UserError(f"cotangent is {', '.join(given)}; allowed: {', '.join(allowed)}, as the output is")
    return found


def by_passes(
    function: Callable[..., Any], arrays: Sequence[jax.Array], cotangent: Any, statistics: bool = False
) -> tuple[Any, tuple]:
    """The outputs and the gradients of the arrays by the function's own two passes; with `statistics` it returns
    (y, *statistics), and the cotangent is y's."""
    if not statistics:
        outputs, pull = jax.vjp(function, *arrays)
        return outputs, pull(cotangent)
    y, pull, others = jax.vjp(lambda *arrays: _apart(*function(*arrays)), *arrays, has_aux=True)
    return (y, *others), pull(cotangent)


def _apart(y: jax.Array, *statistics: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    return y, statistics
