"""What several commands make of their options: cases, targets."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from normbench.cases.case import Case, cases
from normbench.errors import UserError
from normbench.schema import DEFAULT_PRESET, TARGETS

DEFAULT_TARGETS = ("cpu", "h200", "a100")


OF_A_PROBLEM = ("shape", "shapes", "layout", "dtype", "param_dtype", "pass_", "context", "epsilon", "option")
"""Options that make problems of one's own, in place of a preset's."""


def chosen_cases(parsed: argparse.Namespace) -> tuple[Case, ...]:
    """The cases of a preset, or of one's own where a shape was given.

    Raises:
      UserError: for an unknown name, or options of the one kind beside those of the other.
    """
    operators = list(dict.fromkeys((*(getattr(parsed, "operators", None) or ()), *(parsed.operator or ())))) or None
    given = [name for name in OF_A_PROBLEM if getattr(parsed, name, None) is not None]
    if not given:
        return cases(parsed.preset or DEFAULT_PRESET, operators, parsed.variant)
    if not {"shape", "shapes"} & set(given):
        names = ", ".join(f"--{name.strip('_').replace('_', '-')}" for name in given)
        raise UserError(f"{names}: of which shape? give --shape, or --shapes FILE; a preset has its own")
    if parsed.preset is not None:
        raise UserError(f"preset {parsed.preset!r} has shapes of its own; leave out --preset or --shape")
    return _own_cases(parsed, operators or [])


def _own_cases(parsed: argparse.Namespace, operators: Sequence[str]) -> tuple[Case, ...]:
    from normbench.cases.own import Wanted, own_cases, parse_options

    lists = {"dtypes": parsed.dtype, "passes": parsed.pass_, "contexts": parsed.context}
    wanted = Wanted(
        layout=parsed.layout,
        param_dtype=parsed.param_dtype or "float32",
        epsilon=parsed.epsilon,
        options=parse_options(parsed.option or ()),
        **{name: tuple(values) for name, values in lists.items() if values},
    )
    file = None if parsed.shapes is None else Path(parsed.shapes)
    return own_cases(operators, parsed.shape or (), wanted, parsed.variant, file)


def chosen_preset(parsed: argparse.Namespace) -> str:
    """The preset whose budget a study has; "own" for problems of one's own."""
    own = any(getattr(parsed, name, None) is not None for name in ("shape", "shapes"))
    return "own" if own else parsed.preset or DEFAULT_PRESET


def chosen_targets(names: Sequence[str] | None) -> tuple[str, ...]:
    """The targets in the order given, each once.

    Raises:
      UserError: for an unknown target.
    """
    return tuple(dict.fromkeys(chosen_target(name) for name in names or DEFAULT_TARGETS))


def chosen_target(name: str) -> str:
    """A target by its name, or of the description in the file of this path; says on stderr what of it was left out.

    Raises:
      UserError: for an unknown name, or a file that describes no CUDA device.
    """
    from normbench.cli.target_files import add_file, is_file
    from normbench.fusion.targets import check_target

    if not is_file(name):
        return check_target(name)
    target, skipped = add_file(Path(name))
    if skipped:
        print(f"normbench: target {target}: left out what is not known here: {', '.join(skipped)}", file=sys.stderr)
    return target


def check_compilers(targets: Sequence[str]) -> None:
    """Checks, before any work, that this machine has what the targets need.

    Raises:
      UserError: without the compiler for GPUs that are not there, or without the GPU that "gpu" means.
    """
    from normbench.fusion.targets import require_compilers
    from normbench.study.machine.environment import gpu_present

    if "gpu" in targets and not gpu_present():
        others = ", ".join(target for target in TARGETS if target != "gpu")
        raise UserError(f"target 'gpu' is the GPU of this machine, which has none; allowed: {others}")
    try:
        require_compilers(*targets)
    except UserError as error:
        raise UserError(f"{error}; or measure on this machine alone with --target cpu") from error
