"""What the report's script reads: the table of cases and the details of each case, as plain JSON values."""

import json
import math
from collections.abc import Iterable
from typing import Any

import pandas as pd

from normbench.report.data.recommendation import SERIES as TIMES_FIRST
from normbench.report.data.statistics import SERIES
from normbench.report.data.summary import Digest, hints, series_names
from normbench.report.findings.attribution import measured_launches
from normbench.report.findings.findings import Finding
from normbench.report.page.reproduce import explain_command

# (column of the table, heading, kind, factor); a kind "text" is filtered by words, "choice" by a menu, too.
_TEXT = [
    ("variant", "variant", "choice"),
    ("operator", "operator", "choice"),
    ("shape", "shape", "text"),
    ("layout", "layout", "choice"),
    ("dtype", "dtype", "choice"),
    ("param_dtype", "parameters", "choice"),
    ("pass", "pass", "choice"),
    ("context", "context", "choice"),
    ("options", "options", "text"),
    ("target", "target", "choice"),
    ("status", "status", "choice"),
]
_COMPILED = [
    ("launches", "launches", 1.0),
    ("traffic_ratio", "traffic ratio", 1.0),
    ("bytes", "moved MB", 1e-6),
    ("minimum_bytes", "minimum MB", 1e-6),
]
_SERIES = [
    ("median_s", "µs", 1e6),
    ("half_iqr", "± %", 1.0),
    ("ratio", "÷ base", 1.0),
    ("ceiling_fraction", "% of ceiling", 100.0),
    ("break_even_calls", "calls to pay", 1.0),
]
_ERRORS = [("max_ulp", "error ulp", 1.0), ("max_rel", "error relative", 1.0), ("peak_bytes", "peak MB", 1e-6)]
_ACCURACY = [
    "max_abs", "max_rel", "max_ulp", "ulp_dtype", "bound", "hard_max_abs", "hard_max_rel", "hard_max_ulp", "hard_bound",
]  # fmt: skip
_LAST = [("model", "model", "text"), ("reason", "reason", "text")]
_LAUNCH = [
    "index",
    "name",
    "kind",
    "ops",
    "source_ops",
    "read_bytes",
    "write_bytes",
    "grid",
    "block",
    "shared_bytes",
    "registers",
    "spill_bytes",
    "load_bytes",
    "store_bytes",
    "bytes_s",
    "predicted_s",
    "predicted_low_s",
    "predicted_high_s",
    "predicted_from",
    "bound",
    "occupancy",
    "waves",
    "bytes_in_flight",
    "measured_s",
    "share",
]
_TIMED = [
    "device",
    "stage",
    "clock",
    "cache",
    "median_s",
    "q1_s",
    "q3_s",
    "minimum_s",
    "n",
    "outliers",
    "processes",
    "process_spread",
    "bimodal",
    "ratio",
    "ratio_low",
    "ratio_high",
    "stop",
    "status",
    "reason",
]
_COMPILED_FACTS = [
    "target",
    "status",
    "reason",
    "launches",
    "bytes",
    "minimum_bytes",
    "streaming_minimum_bytes",
    "traffic_ratio",
    "xla_bytes",
    "flops",
    "peak_bytes",
    "lower_s",
    "compile_s",
    "read_s",
    "bytes_s",
    "predicted_s",
    "predicted_low_s",
    "predicted_high_s",
    "hlo_sha256",
    "module_sha256",
]


def case_table(digest: Digest, told: list[Finding]) -> dict[str, Any]:
    """The rows of the summary, a list per column, and for every finding the numbers of its rows."""
    rows = _with_half_iqr(digest.summary)
    columns = [_column(rows, name, label, kind, 1.0) for name, label, kind in _TEXT]
    columns += [_column(rows, name, label, "number", factor) for name, label, factor in _COMPILED]
    for series in series_names():
        words = series.replace("_", " ")
        columns += [
            _column(rows, f"{series}_{name}", f"{words} {label}", "number", factor) for name, label, factor in _SERIES
        ]
    columns += [_column(rows, name, label, "number", factor) for name, label, factor in _ERRORS]
    columns += [_column(rows, name, label, kind, 1.0) for name, label, kind in _LAST]
    places = {key: number for number, key in enumerate(zip(rows["case"], rows["target"].fillna(""), strict=True))}
    shown = [column for column in columns if any(value not in (None, "") for value in column["values"])]
    main = _main(column["name"] for column in shown)
    return {
        "columns": [
            {**column, "values": _spelled_once(column["values"]), "main": column["name"] in main} for column in shown
        ],
        "cases": _spelled_once(_plain(rows["case"])),
        "problems": _spelled_once(_plain(rows["problem"])),
        "findings": [sorted({places[key] for key in finding.rows if key in places}) for finding in told],
        "texts": [finding.text for finding in told],
    }


def _spelled_once(values: list[Any]) -> list[Any] | dict[str, list[Any]]:
    """The values; where they are words, of which most come again and again, each word once and the place of each
    value among them: `report.js` spells them out."""
    if not any(isinstance(value, str) for value in values):
        return values
    words: dict[Any, int] = {}
    places = [words.setdefault(value, len(words)) for value in values]
    return {"words": list(words), "places": places}


def _main(names: Iterable[str]) -> set[str]:
    """The columns that are shown at first, as many as fit a window: of times, those of the first series."""
    known = list(names)
    series = next((one for one in TIMES_FIRST if f"{one}_median_s" in known), "wall_cold")
    return {*_MAIN, f"{series}_median_s", f"{series}_ratio"}


_MAIN = (
    "variant", "operator", "shape", "layout", "dtype", "pass", "context", "target", "status", "launches",
    "traffic_ratio", "max_rel",
)  # fmt: skip


def details(digest: Digest) -> dict[str, Any]:
    """By case: its command, its compiled programs with hints, its launches by target, and its timed series."""
    run = digest.run
    key = ["case", "device", "clock", "cache"]
    timed = digest.statistics.merge(_stops(run.timings), on=SERIES, how="left")
    timed = timed.merge(digest.ratios[[*key, "ratio", "ratio_low", "ratio_high"]], on=key, how="left")
    timed.loc[timed["stage"] != "call", ["ratio", "ratio_low", "ratio_high"]] = float("nan")
    launches = measured_launches(run).sort_values(["case", "target", "index"])
    return {
        "commands": {str(row["case"]): explain_command(row) for row in run.cases.to_dict("records")},
        "compiled": _by_case(run.compiled, _COMPILED_FACTS, "hints"),
        "launches": _by_case(launches, ["target", *_LAUNCH], "refusals"),
        "timed": _by_case(timed, _TIMED),
        "accuracy": _by_case(run.accuracy, ["device", *_ACCURACY, "status", "reason"]),
    }


def _stops(timings: pd.DataFrame) -> pd.DataFrame:
    """The rules that ended the sampling of each series."""
    found: dict[tuple, list[str]] = {}
    for *key, stop in timings[[*SERIES, "stop"]].dropna().drop_duplicates().itertuples(index=False, name=None):
        found.setdefault(tuple(key), []).append(str(stop))
    rows = [(*key, ", ".join(sorted(stops))) for key, stops in found.items()]
    return pd.DataFrame(rows, columns=[*SERIES, "stop"], dtype="string")


def to_script(value: Any) -> str:
    """JSON that can stand within a <script> element: no character of it can end the element."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _by_case(frame: pd.DataFrame, columns: list[str], sentences: str | None = None) -> dict[str, Any]:
    values = [_plain(frame[column]) for column in columns]
    if sentences is not None:
        values.append([hints(cell) for cell in frame[sentences]])
    rows: dict[str, list[list[Any]]] = {}
    for case, *row in zip(_plain(frame["case"]), *values, strict=True):
        rows.setdefault(str(case), []).append(row)
    return {"columns": columns + ([sentences] if sentences else []), "rows": rows}


def _column(rows: pd.DataFrame, name: str, label: str, kind: str, factor: float) -> dict[str, Any]:
    values = _plain(rows[name] if factor == 1.0 else rows[name].astype("Float64") * factor)
    return {"name": name, "label": label, "kind": kind, "values": values}


def _with_half_iqr(summary: pd.DataFrame) -> pd.DataFrame:
    half = {
        f"{name}_half_iqr": 50 * (summary[f"{name}_q3_s"] - summary[f"{name}_q1_s"]) / summary[f"{name}_median_s"]
        for name in series_names()
    }
    return pd.concat([summary, pd.DataFrame(half, index=summary.index)], axis=1)


def _plain(values: pd.Series) -> list[Any]:
    """As JSON values, null for what is absent; whole columns at once, for there are hundreds of thousands of cells."""
    absent = values.isna().to_numpy()
    plain: list[Any]
    if pd.api.types.is_bool_dtype(values.dtype):
        plain = [bool(value) for value in values.fillna(False)]
    elif pd.api.types.is_numeric_dtype(values.dtype):
        plain = [_number(value) for value in values.astype("Float64").fillna(0.0).to_numpy("float64").tolist()]
    else:
        plain = values.astype(object).tolist()
    return [None if missing else value for missing, value in zip(absent.tolist(), plain, strict=True)]


def _number(number: float) -> int | float | str:
    if not math.isfinite(number):
        return str(number)
    return int(number) if number.is_integer() and abs(number) < 2**53 else float(f"{number:.6g}")
