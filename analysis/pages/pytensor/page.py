"""The tables of docs/pytensor.md, made from results/pytensor.

`python -m analysis.pages.pytensor.page` writes them between their markers, `--check` fails where they differ, and
`--run RUN` first takes the figures of a study (`normbench study --preset pytensor`) into results/pytensor/study.csv.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from analysis.pages.pytensor.overhead import FOLDER
from analysis.pages.pytensor.timing import read_csv, write_csv

PAGE = Path("docs/pytensor.md")
Row = dict[str, str]


def take_study(path: Path) -> None:
    """Writes the figures of a run of the preset "pytensor", and what it was measured on."""
    from normbench.report import load_run

    run = load_run(path)
    write_csv(FOLDER / "study.csv", study_rows(run))
    record = {name: value for name, value in run.info["environment"].items() if name != "command"}
    (FOLDER / "study.json").write_text(json.dumps(record, indent=2) + "\n")


def study_rows(run: Any) -> list[dict[str, Any]]:
    """A row per case and target of a run (`normbench.report.Run`)."""
    import pandas as pd

    tables = run.tables
    timings = tables["timings"]
    timings = timings[(timings["stage"] == "call") & (timings["clock"] == "wall") & timings["seconds"].notna()]
    by_process = timings.groupby(["case", "device", "cache", "process"])["seconds"].median()
    medians = (by_process.groupby(["case", "device", "cache"]).median() * 1e6).unstack("cache")
    rows = tables["compiled"].merge(tables["cases"].drop(columns="elements"), on="case")
    rows = rows.merge(medians, left_on=["case", "target"], right_index=True, how="left")
    rows = rows.merge(
        tables["accuracy"][["case", "device", "max_rel"]],
        left_on=["case", "target"],
        right_on=["case", "device"],
        how="left",
    )
    found = []
    for row in rows.to_dict("records"):
        facts = {name: None if pd.isna(value) else value for name, value in row.items()}
        found.append(
            {
                **{name: facts[name] for name in ("operator", "context", "shape", "dtype", "options", "model")},
                **{name: facts[name] for name in ("variant", "target", "status", "launches", "bytes", "minimum_bytes")},
                "warm_us": _figures(facts.get("warm")),
                "cold_us": _figures(facts.get("cold")),
                "max_rel": _figures(facts["max_rel"]),
                "lower_s": _figures(facts["lower_s"]),
                "compile_s": _figures(facts["compile_s"]),
                "reason": facts["reason"],
            }
        )
    return found


def _figures(value: float | None) -> str | None:
    return None if value is None else f"{value:.4g}"


def overhead_table(rows: Sequence[Row], shape: str) -> str:
    """Wall microseconds of each way to call, the median over processes of the medians."""
    keys = ("backend", "graph", "how", "arrays")
    chosen = [row for row in rows if row["shape"] == shape]
    lines = []
    for key in dict.fromkeys(tuple(row[name] for name in keys) for row in chosen):
        own = [row for row in chosen if tuple(row[name] for name in keys) == key]
        minimum = min(float(row["minimum_us"]) for row in own if row["clock"] == "wall")
        lines.append((*key, *(_median(own, clock) for clock in ("wall", "pipelined")), _plain(minimum)))
    return _markdown(("who", "graph", "call", "arrays", "wall, µs", "pipelined, µs", "least wall, µs"), lines)


def _median(rows: Iterable[Row], clock: str) -> str:
    return _plain(median(float(row["median_us"]) for row in rows if row["clock"] == clock))


def _plain(value: float) -> str:
    """Three figures, without an exponent from 0.001 up."""
    text = f"{value:.3g}"
    return f"{float(text):.0f}" if "e+" in text else text


def stack_table(rows: Sequence[Row]) -> str:
    lines = []
    baseline: dict[str, float] = {}
    keys = ("backend", "form", "parameters")
    for key in dict.fromkeys(tuple(row[name] for name in keys) for row in rows):
        own = [row for row in rows if tuple(row[name] for name in keys) == key]
        medians = [float(row["median_us"]) / 1e3 for row in own]
        value = median(medians)
        first = baseline.setdefault(key[0], value)
        lines.append(
            (*key, _plain(value), f"{_plain(min(medians))} to {_plain(max(medians))}", _plain(_least_ms(own)),
             f"{first / value:.2f}", own[0]["compile_s"], own[0]["max_rel"])
        )  # fmt: skip
    header = ("who", "form", "parameters", "ms", "by process", "least, ms", "speed", "compile, s", "error")
    return _markdown(header, lines)


def models_table(rows: Sequence[Row]) -> str:
    """Medians over the processes, with the fastest and the slowest process of the calls; compiling in the first process
    apart from those after it, which find what Numba keeps on disk."""
    lines: list[tuple] = []
    keys = ("model", "image", "backend")
    for key in dict.fromkeys(tuple(row[name] for name in keys) for row in rows):
        own = [row for row in rows if tuple(row[name] for name in keys) == key]
        calls = [float(row["median_us"]) / 1e3 for row in own]
        first_s, *again_s = (float(row["compile_s"]) for row in own)
        compiled = (_plain(first_s), _plain(median(again_s)) if again_s else "")
        spread = f"{_plain(min(calls))} to {_plain(max(calls))}"
        lines.append((*key, *compiled, _plain(median(calls)), spread, own[0]["error"]))
    header = ("model", "image", "backend", "compile first, s", "compile again, s", "call, ms", "by process", "error")
    return _markdown(header, lines)


def _least_ms(rows: Iterable[Row]) -> float:
    return min(float(row["minimum_us"]) for row in rows) / 1e3


def fusion_table(rows: Sequence[Row], target: str) -> str:
    columns = ("operator", "written", "launches", "library_calls", "bytes", "traffic_ratio", "float64_values")
    header = ("program", "written in", "launches", "library calls", "bytes", "÷ minimum", "float64 values")
    return _markdown(header, [tuple(row[name] for name in columns) for row in rows if row["target"] == target])


def study_table(rows: Sequence[Row], target: str) -> str:
    """Wall microseconds and error on a CPU; launches and bytes for the others."""
    lines: list[tuple] = []
    for row in rows:
        if row["target"] != target or row["status"] != "ok" or (target == "cpu" and not row["warm_us"]):
            continue
        problem = " ".join(filter(None, (row["operator"], row["context"], row["shape"], row["dtype"], row["options"])))
        if target == "cpu":
            shown = [_plain(float(row["warm_us"])), _plain(float(row["cold_us"])), row["max_rel"]]
        else:
            shown = [row[name].removesuffix(".0") for name in ("launches", "bytes", "minimum_bytes")]
        lines.append((problem, row["variant"], *shown))
    figures = ("warm, µs", "cold, µs", "error") if target == "cpu" else ("launches", "bytes", "minimum bytes")
    return _markdown(("problem", "variant", *figures), lines)


def _markdown(header: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    body = ["| " + " | ".join(map(str, line)) + " |" for line in (header, ["---"] * len(header), *lines)]
    return "\n".join(body)


def filled(text: str, tables: dict[str, Callable[[], str]]) -> str:
    """The page with each table between its markers `<!-- name -->` and `<!-- end -->`."""
    for name, table in tables.items():
        found = re.search(rf"<!-- {re.escape(name)} -->\n(.*?)<!-- end -->", text, re.DOTALL)
        if not found:
            raise ValueError(f"{PAGE} has no marker for {name!r}")
        text = f"{text[: found.start(1)]}\n{table()}\n\n{text[found.end(1) :]}"
    return text


def tables(folder: Path) -> dict[str, Callable[[], str]]:
    def rows(name: str) -> list[Row]:
        return read_csv(folder / f"{name}.csv")

    measured = (folder / "models.csv").exists()
    return {
        **({"models": lambda: models_table(rows("models"))} if measured else {}),
        "overhead, tiny": lambda: overhead_table(rows("overhead"), "4x8"),
        "overhead, large": lambda: overhead_table(rows("overhead"), "8x64x56x56"),
        "stack": lambda: stack_table(rows("stack")),
        "fusion": lambda: fusion_table(rows("fusion"), "h200"),
        "study, cpu": lambda: study_table(rows("study"), "cpu"),
        "study, h200": lambda: study_table(rows("study"), "h200"),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m analysis.pages.pytensor.page", description=__doc__.split("\n")[0])
    parser.add_argument("--run", type=Path)
    parser.add_argument("--check", action="store_true")
    parsed = parser.parse_args()
    if parsed.run:
        take_study(parsed.run)
    text = PAGE.read_text()
    new = filled(text, tables(FOLDER))
    if parsed.check:
        return int(new != text)
    PAGE.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
