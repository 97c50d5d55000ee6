"""`normbench report`: writes a run as one HTML file, and its plots as files of their own where asked, or two
runs side by side; prints paths."""

import argparse
import sys
from pathlib import Path
from typing import Any

from normbench.errors import UserError


def run(parsed: argparse.Namespace) -> int:
    from normbench.report import load_run, write_plots, write_report

    if parsed.run_b is not None:
        return _pair(parsed)
    found = load_run(Path(parsed.run_folder))
    tell_notes(found)
    try:
        print(write_report(found, Path(parsed.html)) if parsed.html else write_report(found))
    except OSError as error:
        raise UserError(f"report of {parsed.run_folder!r} cannot be written: {error}") from error
    if parsed.plots:
        print(*write_plots(found, Path(parsed.plots)), sep="\n")
    return 0


def tell_notes(*runs: Any) -> None:
    """Says on standard error what is to be known of runs that could not be checked."""
    for one in runs:
        if one.note:
            print(f"normbench: {one.note}", file=sys.stderr)


def _pair(parsed: argparse.Namespace) -> int:
    from normbench.report import load_run
    from normbench.report.page.pair import write_comparison

    if parsed.plots:
        raise UserError(f"plots {parsed.plots!r}: allowed for one run, not for two")
    a, b = load_run(Path(parsed.run_folder)), load_run(Path(parsed.run_b))
    tell_notes(a, b)
    print(write_comparison(a, b, Path(parsed.html) if parsed.html else b.path / "comparison.html"))
    return 0
