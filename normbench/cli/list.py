"""`normbench list`: a line per case, with the reason where it is not supported."""

import argparse
from collections.abc import Sequence

from normbench import kernels
from normbench.cases.case import Case
from normbench.cli.arguments import chosen_cases, chosen_targets
from normbench.study.user_modules import import_modules


def run(parsed: argparse.Namespace) -> int:
    import_modules(parsed.imports)
    targets = chosen_targets(parsed.target)
    listed = chosen_cases(parsed)
    partly = 0
    for case in listed:
        found = unsupported(case, targets)
        partly += bool(found)
        print("  ".join((case.slug, f"[{case.model}]", *found)))
    print(
        f"{len(listed)} cases: {len(listed) - partly} supported on every target ({', '.join(targets)}), "
        f"{partly} not supported on at least one"
    )
    return 0


def unsupported(case: Case, targets: Sequence[str]) -> list[str]:
    """For each reason why the variant cannot compute the case: the targets that it concerns, and the reason."""
    variant = kernels.get(case.operator, case.variant)
    concerned: dict[str, list[str]] = {}
    for target in targets:
        reason = variant.supports(case, target)
        if reason:
            concerned.setdefault(reason, []).append(target)
    return [f"unsupported on {', '.join(names)}: {reason}" for reason, names in concerned.items()]
