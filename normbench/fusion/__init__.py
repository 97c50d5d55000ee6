"""What the compiler does with a function: compiled for a target, launch by launch."""

from typing import TYPE_CHECKING, Any

from normbench.fusion.targets import compile_environment as compile_environment

if TYPE_CHECKING:
    from normbench.fusion.compilation import Compilation as Compilation
    from normbench.fusion.compilation import compile_for as compile_for


def __getattr__(name: str) -> Any:
    """Loads what needs JAX when it is first asked for: the environment has to be set before JAX is imported."""
    if name in ("Compilation", "compile_for"):
        from normbench.fusion import compilation

        return getattr(compilation, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
