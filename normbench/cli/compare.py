"""`normbench compare`: what became slower, faster, fused in another way or less accurate between two runs, between two
variants of one, or between the goldens of two commits or JAX releases."""

import argparse
import json
from pathlib import Path
from typing import Any

from normbench.cli.report import tell_notes
from normbench.errors import UserError


def run(parsed: argparse.Namespace) -> int:
    if parsed.golden:
        return _goldens(parsed)
    from normbench.report.compare.text import comparison_text
    from normbench.report.compare.verdict import SLOWER

    found = _comparison(parsed)
    _print(parsed, found, comparison_text)
    slower = parsed.fail_on_slower and found.count(SLOWER) > 0
    changed = parsed.fail_on_change and bool(found.fusion or found.errors)
    return int(slower or changed)


def _comparison(parsed: argparse.Namespace) -> Any:
    from normbench.report.compare.pytest_json import load_any
    from normbench.report.compare.runs import compare, compare_variants
    from normbench.report.compare.verdict import DEFAULT_THRESHOLD

    threshold = DEFAULT_THRESHOLD if parsed.threshold is None else parsed.threshold
    if not 0 < threshold < 1:
        raise UserError(f"threshold {threshold:g}; allowed: a share above 0 and below 1, e.g. 0.03 for 3 %")
    if len(parsed.runs) != (1 if parsed.variants else 2):
        names = " ".join(parsed.runs) or "none"
        raise UserError(
            f"runs {names!r}; allowed: two run folders, or one with --variants A B, or none with --golden A B"
        )
    first, *others = [load_any(Path(name)) for name in parsed.runs]
    tell_notes(first, *others)
    if parsed.variants:
        before, after = parsed.variants
        return compare_variants(first, before, after, threshold)
    return compare(first, others[0], threshold)


def _goldens(parsed: argparse.Namespace) -> int:
    from normbench.goldens.compare import compare_goldens, golden_text

    if parsed.runs or parsed.variants:
        raise UserError("--golden compares goldens; leave out runs and --variants")
    found = compare_goldens(*parsed.golden)
    _print(parsed, found, golden_text)
    return int(parsed.fail_on_change and bool(found.programs))


def _print(parsed: argparse.Namespace, found: Any, text: Any) -> None:
    print(json.dumps(found.document(), indent=1, ensure_ascii=False) if parsed.json else text(found))
