"""`normbench report`: writes a run as one HTML file, and its plots as files of their own where asked; prints paths."""

import argparse
from pathlib import Path

from normbench.errors import UserError


def run(parsed: argparse.Namespace) -> int:
    from analysis.report import load_run, write_plots, write_report

    found = load_run(Path(parsed.run_folder))
    try:
        print(write_report(found, Path(parsed.html)) if parsed.html else write_report(found))
    except OSError as error:
        raise UserError(f"report of {parsed.run_folder!r} cannot be written: {error}") from error
    if parsed.plots:
        print(*write_plots(found, Path(parsed.plots)), sep="\n")
    return 0
