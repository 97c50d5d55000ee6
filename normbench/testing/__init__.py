"""A project's own tests hold its fusion, without a GPU: the pytest fixture `fusion`, and `assert_fusion`.

Importing it imports neither JAX nor pandas.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from normbench.testing.assertion import assert_fusion as assert_fusion


def __getattr__(name: str) -> Any:
    if name == "assert_fusion":
        from normbench.testing.assertion import assert_fusion

        return assert_fusion
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
