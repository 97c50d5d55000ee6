"""What every variant that calls another library has in common: it may be missing."""

from importlib.util import find_spec

from normbench.kernels.problem import Problem


def flax_missing(problem: Problem, target: str) -> str | None:
    """The reason why Flax cannot be called, or None."""
    return None if find_spec("flax") else "flax is not installed: pip install flax"
