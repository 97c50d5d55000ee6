"""What a run measured of its device that turns bytes and launches into seconds: a launch's cost, and streaming by size.

From the table "ceilings" alone: nothing here is fitted to the cases that are then predicted.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from normbench.display.units import digits, duration
from normbench.report.data.summary import ceiling_rates

CLOCKS = ("device_kernels", "pipelined", "wall")
"""By which a device is calibrated and its cases are judged: the first that the run has for it."""
_CHAIN = 5
"""Launches of the program "launch 5"."""


@dataclass(frozen=True)
class Calibration:
    """A device's own costs.

    Attributes:
      device, clock: of the samples.
      call_s: a call of one launch that moves next to nothing.
      launch_s: each further launch; 0 where the run has no program of several (`launch_known` is then False).
      launch_known: whether `launch_s` was measured.
      sizes: bytes read and written by the streaming programs, ascending.
      streaming_s: what the fastest program of each size takes beyond `call_s`.
    """

    device: str
    clock: str
    call_s: float
    launch_s: float
    launch_known: bool
    sizes: tuple[float, ...]
    streaming_s: tuple[float, ...]

    def beyond_s(self, size_bytes: Iterable[float]) -> np.ndarray:
        """Seconds to stream each size, without the launch: straight lines between the measured sizes on logarithmic
        scales, the nearest one's bandwidth outside them."""
        sizes = np.asarray(size_bytes, dtype=float)
        inside = np.clip(sizes, self.sizes[0], self.sizes[-1])
        seconds = np.exp(np.interp(np.log(inside), np.log(self.sizes), np.log(self.streaming_s)))
        return seconds * sizes / inside

    def launches_s(self, size_bytes: Iterable[float]) -> np.ndarray:
        """Seconds of launches that move these bytes, each by itself."""
        return self.launch_s + self.beyond_s(size_bytes)

    def of_call(self, launches_s: float) -> float:
        """Seconds of a call whose launches take `launches_s` in sum."""
        return self.call_s - self.launch_s + launches_s

    def sentence(self) -> str:
        """In words, with the figures."""
        rates = [size / seconds for size, seconds in zip(self.sizes, self.streaming_s, strict=True)]
        further = f", each further launch {duration(self.launch_s)}" if self.launch_known else ""
        return (
            f"Calibrated by what the run measured on {self.device} ({self.clock} clock): a call that moves next to "
            f"nothing takes {duration(self.call_s)}{further}; streaming attains {digits(min(rates) / 1e9)} to "
            f"{digits(max(rates) / 1e9)} GB/s between {_bytes(self.sizes[0])} and {_bytes(self.sizes[-1])}."
        )


def _bytes(size_bytes: float) -> str:
    return f"{size_bytes / 1e6:.3g} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:.3g} KB"


def calibration(ceilings: pd.DataFrame, device: str) -> Calibration | None:
    """The calibration of a device by the first of `CLOCKS` that has all it takes; None where none has.

    Args:
      ceilings: the table of a run.
    """
    rates = ceiling_rates(ceilings)
    idle = ceilings[(ceilings["device"] == device) & ceilings["bytes"].isna() & ceilings["seconds"].notna()]
    medians = idle.groupby("program")["seconds"].median()
    for clock in CLOCKS:
        suffix = "" if clock == "wall" else f", {clock}"
        one, several = (medians.get(f"launch {count}{suffix}") for count in (1, _CHAIN))
        by_size = sorted(rates.get((device, clock, "cold"), {}).items())
        if one is None or not by_size:
            continue
        beyond = [(float(size), size / rate - one) for size, rate in by_size if size / rate > one]
        if beyond:
            further = 0.0 if several is None else max(0.0, (several - one) / (_CHAIN - 1))
            sizes, seconds = zip(*beyond, strict=True)
            return Calibration(device, clock, float(one), float(further), several is not None, sizes, seconds)
    return None
