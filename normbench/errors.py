"""Errors that a command-line user sees as one line."""


class UserError(ValueError):
    """Bad input: names the argument, its value and what is allowed. The command line prints it and exits with 2."""


def unknown(kind: str, value: object, allowed) -> UserError:
    """Returns the error for a name that is not among `allowed`, e.g. `unknown("operator", "bn", operators())`."""
    return UserError(f"unknown {kind} {value!r}; allowed: {', '.join(str(name) for name in allowed)}")
