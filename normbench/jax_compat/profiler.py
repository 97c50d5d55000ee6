"""Private and unstable parts of JAX's profiling, reached through this module only."""

from collections.abc import Callable
from typing import Any


def cupti() -> tuple[Callable[[], None], Callable[[], list[tuple[str, float]]]]:
    """`start()` and `stop()` of NVIDIA's profiling interface, as JAX's Mosaic GPU holds it.

    `stop` returns (kernel, milliseconds) of each kernel since `start`, and lets go of the interface, which has room for
    one user. `start` raises RuntimeError where another holds it, or there is no device.

    Raises:
      ImportError: where this JAX has none.
    """
    from jax._src.lib import mosaic_gpu

    extension: Any = getattr(mosaic_gpu, "_mosaic_gpu_ext", None)
    if not hasattr(extension, "_cupti_init") or not hasattr(extension, "_cupti_get_timings"):
        raise ImportError("this JAX has no CUPTI profiler")
    return extension._cupti_init, lambda: extension._cupti_get_timings(True)
