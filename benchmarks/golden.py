"""Goldens: what each JAX version makes of the cases of a preset, as data in `results/golden/<jax>/<target>.json`.

`python -m benchmarks.golden` writes those of the installed JAX, `--check` compares and says in words what changed.
Peers are left out: their fusion is their own, and changes with their version.
"""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from analysis.fusion import compile_environment
from normbench.errors import UserError

FOLDER = Path("results/golden")
TARGETS = ("h200", "a100")
PEERS = ("flax", "equinox", "haiku", "torch")
Structure = dict[str, Any]


def golden_slugs(preset: str) -> tuple[str, ...]:
    """The cases of a preset that have goldens."""
    from benchmarks.cases import cases

    return tuple(case.slug for case in cases(preset) if case.variant not in PEERS)


def golden_program(slug: str, target: str):
    """The program of a case.

    Raises:
      NotImplementedError: with the reason why it is not supported on `target`.
    """
    import kernels
    from benchmarks.cases import Case

    case = Case.from_slug(slug)
    if reason := kernels.get(case.operator, case.variant).supports(case.problem, target):
        raise NotImplementedError(reason)
    return kernels.program(case.problem, case.variant)


def structures(
    slugs: Iterable[str], target: str, program_of: Callable[[str, str], Any] = golden_program
) -> dict[str, Structure]:
    """Compiles cases in this process; returns launches, kinds, bytes and ratio by slug, or the status and reason.

    A case that `program_of` refuses with NotImplementedError is left out, and every case where the compiler plugin is
    missing.
    """
    os.environ.update(compile_environment())  # no effect where JAX compiled before
    from analysis.fusion import compile_for

    found: dict[str, Structure] = {}
    for slug in slugs:
        try:
            program = program_of(slug, target)
        except NotImplementedError:
            continue
        try:
            found[slug] = _structure(compile_for(program.function, program.inputs, target))
        except UserError:  # no plugin
            return {}
        except Exception as error:  # whatever a compiler raises
            text = " ".join(str(error).split())[:200]
            found[slug] = {"status": "failed", "reason": f"{type(error).__name__}: {text}"}
    return found


def _structure(compilation: Any) -> Structure:
    row = compilation.compiled_row()
    kinds = Counter(launch["kind"] for launch in compilation.launch_rows())
    ratio = row["traffic_ratio"]
    return {
        "launches": row["launches"],
        "kinds": dict(sorted(kinds.items())),
        "bytes": row["bytes"],
        "traffic_ratio": None if ratio is None else round(ratio, 4),
    }


def differences(golden: dict[str, Structure], found: dict[str, Structure], target: str) -> list[str]:
    """A sentence per case that is not as the golden says."""
    from analysis.report.compare import program_changes

    lines = []
    for slug in dict.fromkeys((*golden, *found)):
        if slug not in golden:
            lines.append(f"{slug} on {target}: no golden yet")
        elif slug not in found:
            lines.append(f"{slug} on {target}: in the golden only")
        elif changes := program_changes(golden[slug], found[slug]):
            lines.append(f"{slug} on {target}: {'; '.join(changes)}")
    return lines


def golden_file(target: str, folder: Path = FOLDER) -> Path:
    import jax

    return folder / jax.__version__ / f"{target}.json"


def check(slugs: Iterable[str], target: str, folder: Path = FOLDER) -> list[str]:
    """Compiles the cases and compares them with the goldens of the installed JAX.

    Raises:
      UserError: where there are none, or no compiler for the target.
    """
    file = golden_file(target, folder)
    if not file.is_file():
        raise UserError(f"no golden {str(file)!r} for this JAX; make it with: make goldens")
    wanted = tuple(slugs)
    golden = {slug: row for slug, row in json.loads(file.read_text()).items() if slug in wanted}
    found = structures(wanted, target)
    if not found:
        raise UserError(f"nothing was compiled for {target}: pip install 'normbench[gpu-targets]'")
    return differences(golden, found, target)


def write(slugs: Iterable[str], target: str, folder: Path = FOLDER) -> Path:
    """Replaces the golden of the installed JAX; a line per case, so that a diff reads well."""
    file = golden_file(target, folder)
    found = structures(tuple(slugs), target)
    if not found:
        raise UserError(f"nothing was compiled for {target}: pip install 'normbench[gpu-targets]'")
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(f"{json.dumps(slug)}: {json.dumps(row)}" for slug, row in sorted(found.items()))
    file.write_text(f"{{\n{lines}\n}}\n")
    return file


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.golden", description="Renew or check the goldens.")
    parser.add_argument("--preset", default="smoke")
    parser.add_argument("--target", nargs="+", default=TARGETS)
    parser.add_argument("--check", action="store_true", help="compare instead of writing; 1 where something changed")
    parsed = parser.parse_args()
    os.environ.update(compile_environment())
    try:
        slugs = golden_slugs(parsed.preset)
        if not parsed.check:
            for target in parsed.target:
                print(write(slugs, target))
            _write_slugs()
            return 0
        changes = [line for target in parsed.target for line in check(slugs, target)]
    except UserError as error:
        print(f"golden: error: {error}", file=sys.stderr)
        return 2
    print("\n".join(changes) or "as the goldens say")
    return int(bool(changes))


def _write_slugs() -> None:
    """The parameters of the asv classes: the cases of the smoke preset."""
    from benchmarks.cases import cases

    lines = [f"{case.slug}\n" for case in cases("smoke")]
    Path(__file__).with_name("bench_slugs.txt").write_text("".join(lines))


if __name__ == "__main__":
    sys.exit(main())
