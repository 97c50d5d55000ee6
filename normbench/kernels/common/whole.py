"""Whole numbers as a caller may give them."""

from typing import Any

import numpy as np


def is_whole(value: Any, least: int | None = None) -> bool:
    """Whether a value is a whole number of Python or NumPy, no truth value, and at least `least`."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        return False
    return least is None or bool(value >= least)
