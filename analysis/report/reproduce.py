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
    for option in filter(None, _text(case["options"]).split("-")):
        words += ["--option", option_assignment(option)]
    return shlex.join(words)


def option_assignment(option: str) -> str:
    """kernel=3 for k3; name=value for _name__value."""
    if option.startswith("_"):
        name, _, value = option[1:].partition("__")
        return f"{name}={value}"
    return f"{OPTION_NAMES.get(option[0], option[0])}={option[1:]}"


def epsilon_of(problem: str) -> str | None:
    """The epsilon that a problem's slug names, as a number; None where it is the default."""
    for field in problem.split("."):
        found = _EPSILON.fullmatch(field)
        if found:
            return found[1].replace("p", ".").replace("m", "-")
    return None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
