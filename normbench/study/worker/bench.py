"""In a worker: what a process that measures keeps from one problem to the next."""

from collections.abc import Callable
from typing import Any

import numpy as np

from normbench.study.clocks import throttle
from normbench.study.clocks.ceiling import Ceilings
from normbench.study.clocks.device import DeviceClocks
from normbench.study.clocks.launch_cost import measure_launches
from normbench.study.clocks.memory import Sweep, known_cache_bytes, last_level_cache_bytes


class Bench:
    """The caches, the ceilings and the clocks of the device, each found out once.

    Attributes:
      clocks: the device's own; None for a CPU, which has none, and where they cannot be read.
      state: reads the state of the device.
    """

    def __init__(
        self,
        device: str,
        process: int,
        processes: int,
        seed: int,
        find_clocks: Callable[[], DeviceClocks] = DeviceClocks.find,
        state: Callable[[], throttle.Reading | None] = throttle.state,
    ):
        self.device = device
        self.process = process
        self.processes = processes
        self.seed = seed
        self.cache_bytes = last_level_cache_bytes(device)
        self.known_cache_bytes = known_cache_bytes(device)
        self.sweep = Sweep(self.cache_bytes)
        self.state = state if device == "gpu" else lambda: None
        self.clocks, notes = _clocks(find_clocks) if device == "gpu" else (None, ())
        self.ceilings = Ceilings(device, process, self.cache_bytes, self.sweep, seed, self.clocks)
        self._notes: list[str] = list(notes)
        self._launches_measured = False

    def notes(self) -> list[str]:
        """What is to be said and has not been."""
        told, self._notes = [*self._notes, *self.ceilings.notes], []
        self.ceilings.notes.clear()
        return list(dict.fromkeys(told))

    def launches(self) -> list[dict[str, Any]]:
        """The rows of what a launch costs, once."""
        if self._launches_measured:
            return []
        self._launches_measured = True
        rows, notes = measure_launches(self.device, self.process, np.random.default_rng(self.seed), self.clocks)
        self._notes += notes
        return rows


def _clocks(find: Callable[[], DeviceClocks]) -> tuple[DeviceClocks | None, tuple[str, ...]]:
    try:
        found = find()
    except RuntimeError as error:
        return None, (f"the device's own clocks are not read: {error}",)
    return found, found.notes
