"""Errors that a command-line user sees as one line."""

import difflib


class UserError(ValueError):
    """Bad input: names the argument, its value and what is allowed. The command line prints it and exits with 2."""


def unknown(kind: str, value: object, allowed) -> UserError:
    """Returns the error for a name that is not among `allowed`, e.g. `unknown("operator", "bn", operators())`."""
    names = [str(name) for name in allowed]
    near = difflib.get_close_matches(str(value), names, 1)
    return UserError(f"unknown {kind} {value!r}; allowed: {', '.join(names)}{f' (nearest: {near[0]})' if near else ''}")
