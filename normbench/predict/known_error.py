"""By how much the model is known to be off, for each kind of launch: the range of a prediction.

A range is from the 10th to the 90th percentile of measured over predicted time, of the published device times that
are told apart in docs/predictions.md; where a kind has too few of them it is wider, and says so here.
"""

from dataclasses import dataclass

from normbench.fusion.launches import Launch
from normbench.predict.devices import Device
from normbench.predict.model import Timing
from normbench.predict.rules import BYTES, INTERCONNECT, OPERATIONS
from normbench.predict.trace import Trace

_SHORT = 3.0
"""A launch that takes less than this many starts is short: what a start costs is not known well."""
_LOOPS = 1.5


@dataclass(frozen=True)
class Range:
    """Measured over predicted, low and high."""

    low: float
    high: float


RANGES = {
    "tile": Range(0.90, 1.12),
    "loop": Range(0.85, 1.50),
    "reduction": Range(0.78, 1.15),
    "short": Range(0.70, 1.60),
    OPERATIONS: Range(0.70, 2.00),  # none published was compared
    BYTES: Range(0.70, 3.00),  # none published was compared
    INTERCONNECT: Range(0.50, 3.00),  # none published was compared
}


def kind_of(launch: Launch, timing: Timing, trace: Trace, device: Device) -> str:
    """The kind of a launch with code: what the model does well and badly differs by it."""
    if timing.seconds < _SHORT * device.launch_s:
        return "short"
    if launch.kind == "reduction":
        return "reduction"
    return "loop" if trace.loops > _LOOPS else "tile"
