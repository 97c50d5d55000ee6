"""Private and unstable parts of JAX's profiling, reached through this module only."""

from collections.abc import Callable
from typing import Any


def cupti_measure() -> Callable[..., Any]:
    """`measure(f, aggregate=False)(*args)` returns the result of `f` and (kernel, milliseconds) pairs, or None.

    Raises:
      ImportError: where this JAX has none.
    """
    from jax.experimental.mosaic.gpu import profiler

    if not hasattr(profiler, "Cupti"):
        raise ImportError("this JAX has no CUPTI profiler")
    return profiler.measure
