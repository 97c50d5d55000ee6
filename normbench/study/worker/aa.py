"""The A/A test, in a worker: one executable is timed under two names, as if it were two variants of a problem.

What its two sides differ by is what a difference between two variants has to exceed;
`normbench.report.findings.noise_floor` draws the floor of a run from the rows.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from normbench.study.check.accuracy import Oracle
from normbench.study.clocks.device import DeviceClocks
from normbench.study.clocks.host import garbage_collection_off
from normbench.study.clocks.memory import Rotation
from normbench.study.clocks.sampling import Series, StoppingRule, interleave
from normbench.study.worker.compiled_case import Compiled
from normbench.study.worker.series import series_of

NAMES = ("a", "b")
TIME_LIMIT_S = 0.05
"""Of a series: the presets that give more have more processes, and the test is to cost a run some seconds."""


def against_itself(
    one: Compiled,
    rotation: Rotation,
    oracle: Oracle,
    rule: StoppingRule,
    rng: np.random.Generator,
    before: Callable[[Series], None],
    between: Callable[[], None],
    clocks: DeviceClocks | None = None,
) -> list[dict[str, Any]]:
    """Times a case against itself and returns the rows of "aa", but for device and process.

    Args:
      before, between: as of `normbench.study.clocks.sampling.interleave`.
      clocks: the device's own, where they are read too.
    """
    sides = [[item for item in series_of(one, rotation, oracle) if item.stage == "call"] for _ in NAMES]
    sides = [[replace(item, case=name) for item in series] for name, series in zip(NAMES, sides, strict=True)]
    with garbage_collection_off():
        limited = replace(rule, time_limit_s=min(rule.time_limit_s, TIME_LIMIT_S))
        interleave([item for series in sides for item in series], limited, rng, before, between)
    if clocks:
        sides += [clocks.series(name, one.call, rotation)[0] for name in NAMES]
    return [
        {
            "program": one.case.slug, "clock": item.clock, "cache": item.cache, "name": item.case,
            "sample": sample, "seconds": seconds,
        }
        for series in sides
        for item in series
        for sample, seconds in enumerate(item.seconds)
    ]  # fmt: skip
