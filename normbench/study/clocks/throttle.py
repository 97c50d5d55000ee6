"""Was the device held back? Its clock, power, temperature and reasons for slowing down, read before and after a group.

The readings come from NVML, or from `nvidia-smi` where its library cannot be loaded; neither needs rights. Where both
are absent nothing is known, and nothing is marked.
"""

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from normbench.study.machine import gpu_device

FIELDS = ("clocks.sm", "clocks.max.sm", "power.draw", "temperature.gpu", "clocks_throttle_reasons.active")
SLOW = 0.75
"""A clock below this share of the highest, under load, means throttling; nvbench discards below the same share."""
BENIGN = 0x1 | 0x2
"""Reasons that do not count: the device is idle, or its clocks are set by an application."""
REASONS = {
    0x4: "power cap", 0x8: "hardware slowdown", 0x10: "sync boost", 0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown", 0x80: "power brake",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reading:
    """The state of a device; what it does not tell is None.

    Attributes:
      reasons: the bits of NVML's clock throttle reasons.
      source: "nvml" or "nvidia-smi".
    """

    clock_mhz: float | None
    highest_clock_mhz: float | None
    power_w: float | None
    temperature_c: float | None
    reasons: int | None
    source: str = "nvidia-smi"


def query() -> str | None:
    """One line of nvidia-smi for the first device; None where it is absent or fails."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits", "--id=0"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def state() -> Reading | None:
    """The state of the first device now; None where nothing tells it."""
    device = gpu_device.nvml_device()
    return read() if device is None else Reading(*gpu_device.state(device), source="nvml")


def read(ask: Callable[[], str | None] = query) -> Reading | None:
    """The state of the first device as a line of nvidia-smi tells it; None where it tells nothing."""
    line = ask()
    if not line or not line.strip():
        return None
    cells = [cell.strip() for cell in line.strip().splitlines()[0].split(",")]
    if len(cells) != len(FIELDS):
        return None
    values: list[Any] = [*(_number(cell) for cell in cells[:-1]), _bits(cells[-1])]
    return Reading(*values)


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:  # [N/A]
        return None


def _bits(cell: str) -> int | None:
    try:
        return int(cell, 16)
    except ValueError:
        return None


def throttled(before: Reading | None, after: Reading | None) -> str | None:
    """Why the samples between two readings are suspect; None where nothing says so, or nothing is known."""
    for reading in (before, after):
        if reading is None:
            continue
        bits = (reading.reasons or 0) & ~BENIGN
        if bits:
            told = [name for bit, name in REASONS.items() if bits & bit]
            return ", ".join(told) or f"reasons {bits:#x}"
    if after is not None and after.clock_mhz is not None and after.highest_clock_mhz:
        idle = (after.reasons or 0) & 0x1
        if not idle and after.clock_mhz < SLOW * after.highest_clock_mhz:
            return f"clock {after.clock_mhz:g} of {after.highest_clock_mhz:g} MHz"
    return None


def held_back(before: Reading | None, after: Reading | None) -> bool | None:
    """The column "throttled" of the samples between two readings; None where the device told nothing."""
    return None if before is None and after is None else throttled(before, after) is not None


def state_rows(key: dict[str, Any], before: Reading | None, after: Reading | None) -> list[dict[str, Any]]:
    """Rows of "device_states", one for each reading that there is."""
    why = throttled(before, after)
    moments = (("before", before), ("after", after))
    return [{**key, "moment": moment, **asdict(one), "throttled": why} for moment, one in moments if one is not None]
