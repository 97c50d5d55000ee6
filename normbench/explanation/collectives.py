"""The collectives of a program, as a table and in sentences."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from normbench.display.units import count
from normbench.explanation.picture_parts import size_text
from normbench.fusion.launches import meanwhile
from normbench.fusion.program.partition import Partition
from normbench.fusion.program.wires import RING
from normbench.fusion.reading import Reading

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "index", "name", "collective", "axes", "group_size", "groups", "whole_bytes", "wire_bytes", "algorithm",
    "sent_bytes", "read_bytes", "write_bytes", "asynchronous", "meanwhile", "repetitions", "predicted_s",
    "predicted_low_s", "predicted_high_s", "bound", "scope", "source",
)  # fmt: skip
_OF_ROW = (
    "read_bytes",
    "write_bytes",
    "predicted_s",
    "predicted_low_s",
    "predicted_high_s",
    "bound",
    "scope",
    "source",
)


def collective_rows(reading: Reading, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row per collective, in the order of execution; bytes and seconds are of all its repetitions.

    Args:
      rows: of the table `launches`.
    """
    found = []
    for launch, row in zip(reading.launches, rows, strict=True):
        sends = launch.collective
        if sends is None:
            continue
        axes = reading.partition.axes_of(sends.groups) if sends.groups else None
        found.append(
            {
                "index": launch.index,
                "name": launch.name,
                "collective": sends.kind,
                "axes": None if axes is None else ",".join(axes),
                "group_size": sends.group_size,
                "groups": len(sends.groups) or None,
                "whole_bytes": sends.whole_bytes * launch.repetitions,
                "wire_bytes": launch.wire_bytes,
                "algorithm": sends.algorithm,
                "sent_bytes": None if sends.sent_bytes is None else sends.sent_bytes * launch.repetitions,
                "asynchronous": sends.asynchronous,
                "meanwhile": meanwhile(reading.launches, launch),
                "repetitions": launch.repetitions,
                **{name: row.get(name) for name in _OF_ROW},
            }
        )
    return found


def collective_table(reading: Reading, rows: Sequence[Mapping[str, Any]]) -> "pd.DataFrame":
    """`collective_rows` as a table; empty for a program of one device."""
    import pandas as pd

    return pd.DataFrame(collective_rows(reading, rows), columns=list(COLUMNS))


def collective_sentences(reading: Reading, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is sent, those first that send most; equal ones together."""
    together: dict[tuple, list[dict[str, Any]]] = {}
    for row in collective_rows(reading, rows):
        key = (
            row["collective"],
            row["axes"],
            row["group_size"],
            row["algorithm"],
            row["asynchronous"],
            row["repetitions"],
        )
        together.setdefault((*key, row["whole_bytes"]), []).append(row)
    ordered = sorted(together.values(), key=lambda same: -sum(row["wire_bytes"] or 0 for row in same))
    return [_sentence(same) for same in ordered]


def _sentence(same: Sequence[Mapping[str, Any]]) -> str:
    first = same[0]
    runs = sum(row["repetitions"] for row in same)
    often = f" x{runs}" if runs > 1 else ""
    words = f"{first['collective']}{often}{_among(first)}: {size_text(first['whole_bytes'] * len(same))}"
    if first["wire_bytes"] is not None:
        words += f", {size_text(first['wire_bytes'] * len(same))} on the wire of each device by a ring"
    if first["algorithm"] != RING:
        words += f" ({size_text(first['sent_bytes'] * len(same))} by the compiler's own kernel in {first['algorithm']})"
    return f"{words}; {_asynchronous(same)}"


def _among(row: Mapping[str, Any]) -> str:
    over = f" over {row['axes'].replace(',', ' and ')}" if row["axes"] else ""
    return f"{over} ({row['group_size']} devices)" if row["group_size"] else over


def _asynchronous(same: Sequence[Mapping[str, Any]]) -> str:
    if not same[0]["asynchronous"]:
        return "nothing else runs meanwhile"
    numbers = sorted({index for row in same for index in row["meanwhile"]})
    if not numbers:
        return "asynchronous, but nothing else runs meanwhile"
    return f"asynchronous: {count(len(numbers), 'launch runs', 'launches run')} meanwhile"


def devices_text(partition: Partition) -> str:
    """one of 8 devices (data 2, model 4); "" for a program of one."""
    if partition.devices == 1:
        return ""
    axes = ", ".join(f"{name} {size}" for name, size in partition.axes)
    return f"one of {partition.devices} devices" + (f" ({axes})" if axes else "")
