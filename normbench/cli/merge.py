"""`normbench merge`: takes a run that was made elsewhere into the results of this checkout, or unites several in one.

A run is read whole before it is copied, and is there whole afterwards or not at all. Nothing is ever overwritten.
"""

import argparse
import filecmp
import os
import shutil
from pathlib import Path

from normbench.cli.report import tell_notes
from normbench.cli.study import DEFAULT_OUT, writable_folder
from normbench.errors import UserError

_LEFT_BEHIND = (".lock", ".tmp-*", ".*.tmp")


def run(parsed: argparse.Namespace) -> int:
    folders = [Path(name) for name in parsed.run_folders]
    if len(folders) > 1 or (parsed.into and (Path(parsed.into) / "run.json").exists()):
        print(united(folders, parsed.into))
    else:
        print(merge(folders[0], writable_folder(Path(parsed.into) if parsed.into else DEFAULT_OUT)))
    return 0


def united(folders: list[Path], into: str | None) -> str:
    """Unites the runs in the run `into`, and returns a line that says where it is.

    Raises:
      UserError: without `into`, and as `normbench.study.unite.unite`.
    """
    from normbench.study.unite import missing_shards, unite

    if into is None:
        raise UserError("merge of several runs needs --into FOLDER: the run that holds them all")
    place = Path(into)
    writable_folder(place.absolute().parent)
    state = "" if unite(folders, place) else " holds them already"
    missing = missing_shards(place)
    return f"{place}{state}" + (f" (without the shards {', '.join(missing)})" if missing else "")


def merge(folder: Path, into: Path) -> str:
    """Copies the run in `folder` to `into`/<run id>, and returns a line that says where it is.

    Raises:
      UserError: for a folder that is no run that this normbench reads, or whose place is taken by another run.
    """
    from normbench.report import load_run

    found = load_run(folder)
    tell_notes(found)
    place = into / _safe_name(found.run_id, folder)
    state = "" if found.complete else " (not finished: not all rows are there)"
    if place.exists():
        if not _same_run(folder, place):
            raise UserError(f"run {str(folder)!r}: another run is at {str(place)!r}; give another folder with --into")
        return f"{place} is there already{state}"
    growing = into / f".tmp-{place.name}-{os.getpid()}"
    try:
        shutil.copytree(folder, growing, symlinks=True, ignore=shutil.ignore_patterns(*_LEFT_BEHIND))
        growing.rename(place)
    except (OSError, shutil.Error) as error:
        raise UserError(f"run {str(folder)!r} cannot be copied to {str(place)!r}: {error}") from error
    finally:
        shutil.rmtree(growing, ignore_errors=True)
    return f"{place}{state}"


def _safe_name(run_id: str, folder: Path) -> str:
    if Path(run_id).name != run_id or run_id.startswith("."):
        raise UserError(f"run {str(folder)!r} has the run_id {run_id!r}; allowed: the name of a folder")
    return run_id


def _same_run(folder: Path, place: Path) -> bool:
    """Whether what was measured is the same: run.json and every table; a report may have been written anew."""
    names = {path.name for where in (folder, place) for path in where.glob("*.parquet")} | {"run.json"}
    equal, _, _ = filecmp.cmpfiles(folder, place, names, shallow=False)
    return set(equal) == names
