"""What to type to compile one case again and see its program."""

import re
import shlex
from collections.abc import Mapping
from typing import Any

OPTION_NAMES = {
    "k": "kernel",
    "s": "stride",
    "o": "features",
    "g": "groups",
    "b": "bias",
    "p": "padding",
    "d": "dilation",
    "t": "transposed",
}
"""Options by the letter that stands for them in a slug; others are written out as _name__value."""

_SPATIAL = ("kernel", "stride", "dilation", "padding")
_EPSILON = re.compile(r"eps(m?\d[\dpem]*)")


def explain_command(case: Mapping[str, Any]) -> str:
    """The command `normbench explain ...` for a row of the table "cases", without its target."""
    words = ["normbench", "explain", _text(case["operator"]), _text(case["variant"]), "--shape", _text(case["shape"])]
    flags = {"layout": "layout", "dtype": "dtype", "param-dtype": "param_dtype", "pass": "pass", "context": "context"}
    for flag, column in flags.items():
        if _text(case[column]):
            words += [f"--{flag}", _text(case[column])]
    epsilon = epsilon_of(_text(case["problem"]))
    words += ["--epsilon", epsilon] if epsilon else []
    spatial_axes = _text(case["shape"]).count("x") - 1
    for option in filter(None, _text(case["options"]).split("-")):
        words += ["--option", option_assignment(option, spatial_axes)]
    return shlex.join(words)


def option_assignment(option: str, spatial_axes: int) -> str:
    """kernel=3x3 for k3, padding=1_1x1_1 for p1, kernel=3 for k3i, name=value for _name__value.

    In a slug, a bare number of an option per spatial axis stands for that number on every axis.
    """
    if option.startswith("_"):
        name, _, value = option[1:].partition("__")
        return f"{name}={value}"
    name, value = OPTION_NAMES.get(option[0], option[0]), option[1:]
    if name in _SPATIAL and re.fullmatch(r"m?\d+i", value):
        value = value[:-1]
    elif name in _SPATIAL and re.fullmatch(r"m?\d+", value):
        axis = f"{value}_{value}" if name == "padding" else value
        value = "x".join([axis] * spatial_axes) + ("x" if spatial_axes < 2 else "")
    return f"{name}={value}"


def epsilon_of(problem: str) -> str | None:
    """The epsilon that a problem's slug names, as a number; None where it is the default."""
    for field in problem.split("."):
        found = _EPSILON.fullmatch(field)
        if found:
            return found[1].replace("p", ".").replace("m", "-")
    return None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
