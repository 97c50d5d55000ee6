"""`normbench report`: writes a run as one HTML file and prints its path."""

import argparse
from pathlib import Path

from normbench.errors import UserError


def run(parsed: argparse.Namespace) -> int:
    from analysis.report import load_run, write_report

    found = load_run(Path(parsed.run_folder))
    try:
        print(write_report(found, Path(parsed.html)) if parsed.html else write_report(found))
    except OSError as error:
        raise UserError(f"report of {parsed.run_folder!r} cannot be written: {error}") from error
    return 0
