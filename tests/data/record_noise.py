"""Makes cpu_noise.parquet and cpu_noise.json, the recorded noise that the verdicts are tested against, out of runs.

    python tests/data/record_noise.py RUN ...

Each run is a study of one preset on one machine, nothing changed between them. Kept: the wall clock of some of the
cases that all runs timed, and the streaming programs; each sample as it was stored, in nanoseconds.
"""

import json
import sys
from pathlib import Path

import pandas as pd

from normbench.report import load_run

HERE = Path(__file__).parent
CASES = 32
"""Spread evenly over the cases by their time."""
SAMPLES_PER_PROCESS = 40


def main(paths: list[str]) -> None:
    runs = [load_run(Path(path)) for path in paths]
    calls = [_calls(run) for run in runs]
    shared = set.intersection(*(set(table["case"]) for table in calls))
    medians = calls[0][calls[0]["case"].isin(shared)].groupby("case")["seconds"].median().sort_values()
    chosen = {medians.index[round(i * (len(medians) - 1) / (CASES - 1))] for i in range(CASES)}
    parts = []
    for run, table in zip(runs, calls, strict=True):
        streams = run.ceilings[~run.ceilings["program"].str.contains("pipelined")]
        streams = streams.assign(case="streaming." + streams["program"] + "." + streams["bytes"].astype(str))
        both = pd.concat([table[table["case"].isin(chosen)], streams])
        parts.append(both.assign(run=run.run_id))
    columns = ["run", "case", "cache", "process", "sample"]
    noise = pd.concat(parts)[[*columns, "seconds"]].sort_values(columns)
    noise = noise.groupby(columns[:-1]).head(SAMPLES_PER_PROCESS)
    noise = noise.assign(nanoseconds=(noise.pop("seconds") * 1e9).round().astype("int64"))
    noise.to_parquet(HERE / "cpu_noise.parquet", index=False, compression="zstd", compression_level=19)
    kept = ("created", "finished", "preset", "command", "config", "environment")
    about = {run.run_id: {name: run.info.get(name) for name in kept} for run in runs}
    for entry in about.values():
        entry.get("config", {}).pop("cases", None)
    (HERE / "cpu_noise.json").write_text(json.dumps(about, indent=1) + "\n")


def _calls(run):
    table = run.timings[run.timings["seconds"].notna() & (run.timings["stage"] == "call")]
    table = table[(table["clock"] == "wall") & (table["status"].fillna("ok") == "ok")]
    count = table.groupby("case")["process"].transform("nunique")
    return table[count == count.max()]


if __name__ == "__main__":
    main(sys.argv[1:])
