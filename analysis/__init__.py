"""What XLA makes of a program, and what the measurements mean.

`explain(function, jax.ShapeDtypeStruct((8192, 4096), "bfloat16"), target="h200")` compiles and reads any function.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.fusion.explain import Report as Report
    from analysis.fusion.explain import explain as explain


def __getattr__(name: str) -> Any:
    """Loads `explain` and `Report` when they are first asked for: reports are read without JAX."""
    if name in ("explain", "Report"):
        from analysis.fusion import explain as module

        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
