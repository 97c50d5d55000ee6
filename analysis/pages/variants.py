"""Which variant to use, as the table in README.md: measured on the CPU by the kept run `quick`, predicted for the H200
by the kept run `standard`.

    python -m analysis.pages.variants [--check]
"""

import argparse
import sys
from pathlib import Path

from normbench.report import Run, load_run
from normbench.report.data.choice import by_group, choices, group_name
from normbench.report.data.recommendation import BY_PASS, Recommendation, recommendations
from normbench.report.data.summary import digest
from normbench.report.findings.conclusion import basis_lines
from normbench.report.plots.gallery import device_name

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "README.md"
RUNS = (("quick", "cpu"), ("standard", "h200"))
"""Where each column comes from: a kept run, and a target of it."""
BEGIN = "<!-- which variant: made by python -m analysis.pages.variants -->"
END = "<!-- end -->"
_PASSES = ("forward", "backward", "forward_backward")


def table() -> str:
    """The table in Markdown, and below it what its columns rest on."""
    columns = [(load_run(ROOT / "results" / "runs" / name), target) for name, target in RUNS]
    told = [_of_target(run, target) for run, target in columns]
    groups = list(dict.fromkeys(one.group for mine in told for one in mine))
    operators = list(dict.fromkeys(group[0] for group in groups))
    groups.sort(key=lambda group: (operators.index(group[0]), _PASSES.index(group[1])))
    heads = [f"{target.upper()}, {mine[0].basis}" for (_, target), mine in zip(columns, told, strict=True)]
    lines = [f"| operator, pass | {' | '.join(heads)} |", f"|{'---|' * (len(heads) + 1)}"]
    for group in groups:
        cells = [_cell(mine, group, target) for (_, target), mine in zip(columns, told, strict=True)]
        lines.append(f"| {group_name(group)} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_notes(columns, told)])


def _of_target(run: Run, target: str) -> list[Recommendation]:
    return [one for one in recommendations(digest(run), BY_PASS) if one.target == target]


def _cell(told: list[Recommendation], group: tuple[str, ...], target: str) -> str:
    found = [one for choice in by_group(told).items() if choice[0] == group for one in choices(choice[1], [target])]
    if not found:
        return "–"
    one = found[0]
    rival = f" {'~' if one.tied else 'next'} `{one.rival}` {one.rival_ratio}" if one.rival else ""
    return f"**`{one.variant}`** {one.ratio}".rstrip() + rival


def _notes(columns: list[tuple[Run, str]], told: list[list[Recommendation]]) -> list[str]:
    baselines = sorted({one.baseline for mine in told for one in mine}, key=lambda name: name != "naive")
    notes = [
        f"Figures are time ÷ the baseline's (`{'` or `'.join(baselines)}`), geometric mean over the problems; both: "
        "forward and backward in one program; ~: not told apart from it, for the noise or the model's error, and then "
        "the baseline stands."
    ]
    for (run, target), mine in zip(columns, told, strict=True):
        where = device_name(run, target) if target == "cpu" else target.upper()
        sentence = next(line for line in basis_lines(mine) if line.startswith(f"{target}: "))
        notes.append(f"{where}: {sentence.removeprefix(f'{target}: ')} Run `{run.run_id}`.")
    return [f"{note}<br>" if place < len(notes) - 1 else note for place, note in enumerate(notes)]


def renewed(page: str) -> str:
    """The page with the table between its marks."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END, 1)[1]}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m analysis.pages.variants", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where README would change")
    options = parser.parse_args(arguments)
    page = PAGE.read_text(encoding="utf-8")
    made = renewed(page)
    if not options.check:
        PAGE.write_text(made, encoding="utf-8")
    return 1 if options.check and made != page else 0


if __name__ == "__main__":
    sys.exit(main())
