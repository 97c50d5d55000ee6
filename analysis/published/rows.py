"""The published device times in results/published, read and checked.

`times.csv` holds a row per figure, `sources.csv` a row per place they come from, `kept_apart.csv` the rows that were
drawn before the model was shaped (`analysis.published.draw`).
"""

import csv
import json
import math
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from normbench.errors import UserError, unknown

FOLDER = Path(__file__).resolve().parents[2] / "results" / "published"
DEVICES = ("a100", "a100_40gb", "h100", "h200", "b200")
OPERATORS = ("layer_norm", "rms_norm", "fused_add_rms_norm", "group_norm", "softmax")
PASSES = ("forward", "backward", "forward_backward")
DTYPES = ("float32", "bfloat16", "float16")
SECONDS = {"us": 1e-6, "ms": 1e-3}
"""What the units of the published figures are in seconds."""
FORMS = {
    "xla_forward": {"residuals"},
    "xla_vjp": set(),
    "xla_forward_vjp": set(),
    "blocks_forward": {"block_m", "block_n", "num_warps", "residuals", "alias"},
    "blocks_vjp": {"block_m", "block_n", "num_warps"},
    "blocks_forward_vjp": {"forward", "backward"},
    "row_forward": {"centred", "num_warps", "statistics", "residual", "llama"},
    "two_pass_row": {"centred", "threads", "vector", "statistics", "residual", "alias"},
    "group_loops": {"channels_per_group", "block", "num_warps"},
    "softmax_row": {"num_warps"},
    "eager_rms_norm": {"residual", "num_warps"},
}
"""The forms of programs, and the settings that each takes (`analysis.published.programs`)."""


@dataclass(frozen=True)
class Source:
    """Where figures come from, and how their time was taken; columns of sources.csv.

    Attributes:
      source: the name that rows give.
      what: in words.
      address, version: where, and which state of it.
      device_as_stated: the device as the source names it.
      clock: how time was taken.
      cache: what was done about the L2 cache between runs.
      host_in_time: whether a launch from the host is inside the time.
      note: what was left out, and why.
    """

    source: str
    what: str
    address: str
    version: str
    device_as_stated: str
    clock: str
    cache: str
    host_in_time: bool
    note: str


@dataclass(frozen=True)
class Published:
    """One published time; columns of times.csv.

    Attributes:
      id: unique.
      source: of `Source`.
      place: file, table or comment in the source.
      device: one of DEVICES.
      operator: one of OPERATORS; fused_add_rms_norm writes x + residual and the norm of it.
      implementation: whose kernel.
      family: implementations whose kernels are built alike.
      pass_name: one of PASSES.
      shape: of x, in elements.
      axis: that is normalized: -1, or 0 for the first; 1 for the channels of a group norm.
      dtype, parameter_dtype: of x and y, and of scale and offset.
      form: one of FORMS: the program that reproduces it.
      settings: of the form: blocks, warps, and what is written beside y.
      launches: of the published time; None where the compiler decides.
      figure, unit: as published.
      time_s: the same in seconds.
      host_s: of time_s, what the host takes to launch; 0.0 where the clock leaves it out.
      host_evidence: the published figures that host_s is taken from.
      shaped_before: whether the model's first version was fitted to it.
    """

    id: str
    source: str
    place: str
    device: str
    operator: str
    implementation: str
    family: str
    pass_name: str
    shape: tuple[int, ...]
    axis: int
    dtype: str
    parameter_dtype: str
    form: str
    settings: dict[str, Any]
    launches: int | None
    figure: float
    unit: str
    time_s: float
    host_s: float
    host_evidence: str
    shaped_before: bool

    @property
    def problem(self) -> tuple[Any, ...]:
        """What rows have in common that compute the same on the same device with the same clock."""
        writes_statistics = bool(self.settings.get("residuals"))
        return (self.source, self.device, self.operator, self.pass_name, self.shape, self.axis, self.dtype,
                self.parameter_dtype, writes_statistics)  # fmt: skip

    @property
    def device_s(self) -> float:
        """The time without what the host takes, in seconds."""
        return self.time_s - self.host_s


COLUMNS = tuple("pass" if field.name == "pass_name" else field.name for field in fields(Published))
SOURCE_COLUMNS = tuple(field.name for field in fields(Source))


@cache
def published() -> tuple[Published, ...]:
    """All rows of times.csv.

    Raises:
      UserError: for a row that does not keep the schema; names it.
    """
    rows = tuple(read_row(row) for row in _table(FOLDER / "times.csv", COLUMNS))
    _check_unique([row.id for row in rows])
    for row in rows:
        if row.source not in sources():
            raise unknown(f"source of {row.id}", row.source, sources())
    return rows


@cache
def sources() -> dict[str, Source]:
    """All rows of sources.csv by name."""
    found = [Source(**{**row, "host_in_time": _yes(row["host_in_time"], row["source"])})  # type: ignore[arg-type]
             for row in _table(FOLDER / "sources.csv", SOURCE_COLUMNS)]  # fmt: skip
    _check_unique([source.source for source in found])
    return {source.source: source for source in found}


@cache
def kept_apart() -> frozenset[str]:
    """The ids of the rows that were kept apart while the model was shaped."""
    return frozenset(row["id"] for row in _table(FOLDER / "kept_apart.csv", ("id", "source", "seed")))


def read_row(row: dict[str, str]) -> Published:
    """One row of times.csv, checked.

    Raises:
      UserError: names the row, the column and what is allowed.
    """
    name = row["id"]
    for column, allowed in (
        ("device", DEVICES), ("operator", OPERATORS), ("pass", PASSES), ("dtype", DTYPES),
        ("parameter_dtype", DTYPES), ("form", FORMS), ("unit", SECONDS),
    ):  # fmt: skip
        if row[column] not in allowed:
            raise unknown(f"{column} of {name}", row[column], allowed)
    settings = json.loads(row["settings"])
    if extra := set(settings) - FORMS[row["form"]]:
        raise UserError(f"settings of {name}: the form {row['form']} takes no {', '.join(sorted(extra))}")
    figure, time_s, host_s = (_number(row, column) for column in ("figure", "time_s", "host_s"))
    if not math.isclose(figure * SECONDS[row["unit"]], time_s, rel_tol=1e-5):
        raise UserError(f"time_s of {name} is {time_s}, but {row['figure']} {row['unit']} was published")
    if not 0.0 <= host_s < time_s or bool(host_s) != bool(row["host_evidence"]):
        raise UserError(f"host_s of {name} is {host_s}; allowed: less than time_s, and with its evidence beside it")
    plain = {column: row[column] for column in COLUMNS if column not in _READ}
    return Published(
        **plain,  # type: ignore[arg-type]
        pass_name=row["pass"],
        shape=tuple(int(size) for size in row["shape"].split("x")),
        axis=int(row["axis"]),
        settings=settings,
        launches=int(row["launches"]) if row["launches"] else None,
        figure=figure,
        time_s=time_s,
        host_s=host_s,
        shaped_before=_yes(row["shaped_before"], name),
    )


_READ = ("pass", "shape", "axis", "settings", "launches", "figure", "time_s", "host_s", "shaped_before")


def _table(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != columns:
            raise UserError(f"columns of {path.name} are {reader.fieldnames}; allowed: {', '.join(columns)}")
        return list(reader)


def _number(row: dict[str, str], column: str) -> float:
    try:
        return float(row[column])
    except ValueError:
        raise UserError(f"{column} of {row['id']} is {row[column]!r}; allowed: a number") from None


def _yes(value: str, name: str) -> bool:
    if value not in ("yes", "no"):
        raise UserError(f"{value!r} in {name}; allowed: yes, no")
    return value == "yes"


def _check_unique(names: list[str]) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{', '.join(twice)} stands twice in results/published")
