"""Goldens: what each JAX version makes of `smoke`, `standard` and `sharding`, as data in `results/golden/`.

`python -m normbench.goldens.renew` renews those of the installed JAX (`make goldens` also docs/history.md);
`--check` compares, and says in words what changed; `--target-config FILE` does so for a real device, as XLA described
it in FILE.
Peers are left out: their fusion is their own, and changes with their version.
"""

import argparse
import hashlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from normbench.errors import UserError
from normbench.fusion import compile_environment
from normbench.fusion.changes import Structure
from normbench.goldens.store import FOLDER, Goldens, case_name, differences, read_folder, to_csv
from normbench.schema import TPU_TARGETS

TARGETS = ("h200", "a100")
OF_A_TPU = 7
"""Cases of each operator that have goldens on a TPU, where somebody asks for them (--target v6e tpu7x): a sample of
those that are supported there."""
_SLUGS = Path(__file__).resolve().parents[2] / "benchmarks" / "bench_slugs.txt"
PRESETS = ("smoke", "standard", "sharding")
PEERS = ("flax",)
"""Of those presets; the libraries of `normbench.kernels.registry.PEERS` are in none of them."""


def golden_slugs(preset: str) -> tuple[str, ...]:
    """The cases of a preset that have goldens."""
    from normbench.cases.case import cases

    return tuple(case.slug for case in cases(preset) if case.variant not in PEERS)


def all_slugs() -> tuple[str, ...]:
    """The cases that have goldens."""
    return tuple(dict.fromkeys(slug for preset in PRESETS for slug in golden_slugs(preset)))


def sample(slugs: Iterable[str], per_operator: int) -> tuple[str, ...]:
    """The same few cases of each operator and pass whenever it is asked, spread over what there is."""
    groups: dict[str, list[str]] = {}
    for slug in sorted(slugs, key=lambda slug: hashlib.sha256(slug.encode()).digest()):
        groups.setdefault(slug.split(".")[0], []).append(slug)
    return tuple(slug for group in groups.values() for slug in group[:per_operator])


def slugs_of(target: str, slugs: Iterable[str]) -> tuple[str, ...]:
    """Those of the cases that have goldens on a target: all of them on a GPU, a sample on a TPU."""
    if target not in TPU_TARGETS:
        return tuple(slugs)
    chosen = set(sample((slug for slug in all_slugs() if _is_supported(slug, target)), OF_A_TPU))
    return tuple(slug for slug in slugs if slug in chosen)


def _is_supported(slug: str, target: str) -> bool:
    from normbench import kernels
    from normbench.cases.case import Case

    case = Case.from_slug(slug)
    return kernels.get(case.operator, case.variant).supports(case.problem, target) is None


def structures(slugs: Iterable[str], target: str, program_of: Any = None) -> dict[str, Structure]:
    """Compiles cases; returns launches, kinds, bytes and ratio by slug, or the status and reason.

    A case that `program_of` refuses with NotImplementedError is left out, and every case where the compiler plugin is
    missing.
    """
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from normbench.goldens.make import default_workers, make
    from normbench.goldens.program import golden_program

    try:
        return make(slugs, target, program_of or golden_program, None, default_workers())
    except UserError:  # no plugin
        return {}


def golden_folder(target: str, folder: Path = FOLDER) -> Path:
    import jax

    return folder / jax.__version__ / target


def check(slugs: Iterable[str], target: str, folder: Path = FOLDER) -> list[str]:
    """Compiles the cases and compares them with the goldens of the installed JAX; a sentence for each that differs.

    Raises:
      UserError: where there are none, or no compiler for the target.
    """
    known = _known(golden_folder(target, folder))
    wanted = tuple(slugs)
    found = structures(wanted, target)
    if not found:
        extra = "tpu-targets" if target in TPU_TARGETS else "gpu-targets"
        raise UserError(f"nothing was compiled for {target}: pip install 'normbench[{extra}]'")
    return sentences({slug: known[slug] for slug in wanted if slug in known}, found, target)


def sentences(golden: Goldens, found: Goldens, target: str) -> list[str]:
    """What is not as the golden says."""
    lines = [f"{_name(slug, target)}: no golden yet (make goldens)" for slug in found if slug not in golden]
    lines += [f"{_name(slug, target)}: not compiled any more" for slug in golden if slug not in found]
    return lines + [f"{_name(slug, target)}: {'; '.join(changes)}" for slug, changes in differences(golden, found)]


def _name(slug: str, target: str) -> str:
    return f"{case_name(slug, target)} ({slug})"


def renew(slugs: Iterable[str], target: str, workers: int, folder: Path = FOLDER) -> list[str]:
    """Writes the goldens of the installed JAX for these cases; those of other cases stay as they are, if they are
    still in a preset. Returns a sentence for each that changed.

    Raises:
      UserError: without a compiler for the target.
    """
    from normbench.goldens.make import JOURNALS, Journal, make, toolchain
    from normbench.goldens.program import golden_program

    place = golden_folder(target, folder)
    wanted = tuple(slugs)
    tools = toolchain(target)
    journal = Journal(JOURNALS / f"{place.parent.name}-{target}.jsonl", tools)
    before = read_folder(place)
    made = make(wanted, target, golden_program, journal, workers, _Progress(place, len(wanted)))
    others = set(slugs_of(target, all_slugs())) - set(wanted)
    after = {slug: row for slug, row in before.items() if slug in others} | made
    _write(place, after)
    return sentences(before, after, target) if before else []


def repeat(slugs: Iterable[str], config: Path, workers: int, folder: Path = FOLDER) -> tuple[Goldens, list[str]]:
    """Compiles the cases for a device that XLA described, and compares them with the goldens of the packaged target
    that names the same device.

    Args:
      config: a text `GpuTargetConfigProto`, as XLA dumps it.

    Returns:
      what was made, and a sentence for each case that differs.

    Raises:
      UserError: for a file that is none, a device that no packaged target names, or without its goldens or a compiler.
    """
    from normbench.fusion.targets import packaged, read_target
    from normbench.goldens.make import JOURNALS, Journal, make, toolchain
    from normbench.goldens.program import golden_program

    target = read_target(config)
    if packaged(target) is None:
        raise UserError(f"{str(config)!r} describes {target.device_name!r}, which no packaged target names")
    known = _known(golden_folder(target.name, folder))
    journal = Journal(JOURNALS / f"described-{target.name}.jsonl", toolchain(target))
    wanted = tuple(slugs)
    made = make(wanted, target, golden_program, journal, workers, _Progress(config, len(wanted)))
    return made, sentences({slug: known[slug] for slug in wanted if slug in known}, made, target.device_name)


def _known(place: Path) -> Goldens:
    known = read_folder(place)
    if not known:
        raise UserError(f"no goldens in {str(place)!r} for this JAX; make them with: make goldens")
    return known


def _write(place: Path, goldens: Goldens) -> None:
    place.mkdir(parents=True, exist_ok=True)
    by_operator: dict[str, Goldens] = {}
    for slug, row in goldens.items():
        by_operator.setdefault(slug.split(".")[0], {})[slug] = row
    for operator, rows in by_operator.items():
        (place / f"{operator}.csv").write_text(to_csv(rows), encoding="utf-8")
    for path in place.glob("*.csv"):
        if path.stem not in by_operator:
            path.unlink()


class _Progress:
    """A line now and then on standard error; `place` says what of."""

    def __init__(self, place: Path, total: int):
        self._place, self._total, self._said = place, total, 0

    def __call__(self, done: int, compiled: int) -> None:
        if done - self._said >= 20 or done == self._total:
            self._said = done
            print(f"{self._place}: {done} of {self._total}, {compiled} to compile", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m normbench.goldens.renew", description="Renew or check the goldens."
    )
    parser.add_argument("--preset", choices=PRESETS, help="(default: all that have goldens)")
    parser.add_argument("--operator", action="append", help="only these; to be repeated")
    parser.add_argument("--target", nargs="+", default=TARGETS)
    parser.add_argument("--sample", type=int, metavar="N", help="check only N cases of each operator")
    parser.add_argument("--workers", type=int, metavar="N", help="compiler processes (default: one per core)")
    parser.add_argument("--check", action="store_true", help="compare instead of writing; 1 where something changed")
    parser.add_argument(
        "--target-config", type=Path, metavar="FILE",
        help="compare what a device that XLA described in FILE gets with the goldens; 1 where something differs",
    )  # fmt: skip
    parsed = parser.parse_args()
    os.environ.update(compile_environment())
    try:
        return _run(parsed)
    except UserError as error:
        print(f"golden: error: {error}", file=sys.stderr)
        return 2


def _run(parsed: argparse.Namespace) -> int:
    slugs = golden_slugs(parsed.preset) if parsed.preset else all_slugs()
    slugs = tuple(slug for slug in slugs if not parsed.operator or slug.split(".")[0] in parsed.operator)
    changes: list[str] = []
    if parsed.check:
        for target in parsed.target:
            changes += check(_sampled(slugs_of(target, slugs), target, parsed.sample), target)
        print("\n".join(changes) or "as the goldens say")
        return int(bool(changes))
    from normbench.goldens.make import default_workers

    workers = parsed.workers or default_workers()
    if parsed.target_config:
        made, changes = repeat(slugs, parsed.target_config, workers)
        print("\n".join(changes) or f"{len(made)} cases: as the goldens say")
        return int(bool(changes))
    for target in parsed.target:
        changes += renew(slugs_of(target, slugs), target, workers)
    _write_slugs()
    print("\n".join(changes) or "no change")
    return 0


def _sampled(slugs: tuple[str, ...], target: str, per_operator: int | None) -> tuple[str, ...]:
    """A sample of those that have goldens, or all, with or without."""
    if not per_operator:
        return slugs
    known = read_folder(golden_folder(target))
    return sample((slug for slug in slugs if slug in known), per_operator)


def _write_slugs() -> None:
    """The parameters of the asv classes: the cases of the smoke preset."""
    from normbench.cases.case import cases

    lines = [f"{case.slug}\n" for case in cases("smoke")]
    _SLUGS.write_text("".join(lines))


if __name__ == "__main__":
    sys.exit(main())
