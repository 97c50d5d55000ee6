"""What several commands make of their options: cases, targets."""

import argparse
from collections.abc import Sequence

from normbench.cases.case import Case, cases
from normbench.errors import UserError, unknown
from normbench.schema import DEFAULT_PRESET, DEVICELESS_TARGETS, TARGETS

DEFAULT_TARGETS = ("cpu", "h200", "a100")


def chosen_cases(parsed: argparse.Namespace) -> tuple[Case, ...]:
    return cases(parsed.preset or DEFAULT_PRESET, parsed.operator, parsed.variant)


def chosen_targets(names: Sequence[str] | None) -> tuple[str, ...]:
    """The targets in the order given, each once.

    Raises:
      UserError: for an unknown target.
    """
    for name in names or ():
        if name not in TARGETS:
            raise unknown("target", name, TARGETS)
    return tuple(dict.fromkeys(names or DEFAULT_TARGETS))


def check_compilers(targets: Sequence[str]) -> None:
    """Checks, before any work, that this machine has what the targets need.

    Raises:
      UserError: without the compiler for GPUs that are not there, or without the GPU that "gpu" means.
    """
    from normbench.fusion.targets import require_gpu_targets
    from normbench.study.machine.environment import gpu_present

    if "gpu" in targets and not gpu_present():
        others = ", ".join(target for target in TARGETS if target != "gpu")
        raise UserError(f"target 'gpu' is the GPU of this machine, which has none; allowed: {others}")
    if any(target in DEVICELESS_TARGETS for target in targets):
        try:
            require_gpu_targets()
        except UserError as error:
            raise UserError(f"{error}; or measure on this machine alone with --target cpu") from error
