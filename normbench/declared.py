"""What a program declares of itself, carried to the compiled one in names: the bytes of a hand-written kernel.

JAX drops the cost estimate of a Pallas kernel when it lowers it for a GPU; the name of the scope around it reaches the
optimised module as `op_name`, whatever the backend and the release.
"""

import re

WIDE_OUTPUTS = "wide_outputs_are_asked_for"
"""The name of the scope of a program whose outputs are wider than its inputs because that is what it is to compute, and
not because mixed-dtype arithmetic promotes."""

_PATTERN = re.compile(r"declared_read_(\d+)_write_(\d+)_bytes")


def declare(read_bytes: int, write_bytes: int) -> str:
    """The name of the scope to call a kernel in."""
    return f"declared_read_{read_bytes}_write_{write_bytes}_bytes"


def declared(op_name: str) -> tuple[int, int] | None:
    """(read, written) bytes as declared in the name of a launch; None where nothing is declared."""
    found = _PATTERN.findall(op_name)
    return (int(found[-1][0]), int(found[-1][1])) if found else None
