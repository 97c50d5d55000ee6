"""`normbench verify`: holds every file of a run against its checksum, and names what is damaged."""

import argparse
from pathlib import Path

from normbench.run_folder import check_run
from normbench.run_folder.check import missing_modules


def run(parsed: argparse.Namespace) -> int:
    return max(_verify(Path(name)) for name in parsed.run_folders)


def _verify(path: Path) -> int:
    """Prints a line per damaged file, and one on the run; 1 where there is damage, else 0."""
    found = check_run(path)
    damaged = [*found.damaged, *missing_modules(found)]
    for damage in damaged:
        print(f"{path}: {damage}")
    state = "complete" if found.complete else "not finished"
    if damaged:
        print(
            f"{path}: {len(damaged)} damaged files, {state}; normbench study --resume sets them aside and carries out "
            "their cases again"
        )
        return 1
    for unit in found.parts:
        found.part(unit)
    what = "no checksums (schema version 1): not checked" if not found.checked else "every file is as it was written"
    print(f"{path}: {what}, {state}")
    return 0
