"""`normbench report`: writes a run as one HTML file, and its plots as files of their own where asked, or two
runs side by side; prints paths."""

import argparse
from pathlib import Path

from normbench.errors import UserError


def run(parsed: argparse.Namespace) -> int:
    from normbench.report import load_run, write_plots, write_report

    if parsed.run_b is not None:
        return _pair(parsed)
    found = load_run(Path(parsed.run_folder))
    try:
        print(write_report(found, Path(parsed.html)) if parsed.html else write_report(found))
    except OSError as error:
        raise UserError(f"report of {parsed.run_folder!r} cannot be written: {error}") from error
    if parsed.plots:
        print(*write_plots(found, Path(parsed.plots)), sep="\n")
    return 0


def _pair(parsed: argparse.Namespace) -> int:
    from normbench.report import load_run
    from normbench.report.page.pair import write_comparison

    if parsed.plots:
        raise UserError(f"plots {parsed.plots!r}: allowed for one run, not for two")
    a, b = load_run(Path(parsed.run_folder)), load_run(Path(parsed.run_b))
    print(write_comparison(a, b, Path(parsed.html) if parsed.html else b.path / "comparison.html"))
    return 0
