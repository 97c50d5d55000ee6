"""Over which devices a program is divided; what is read of it is the program of one of them."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DEVICES_PER_MACHINE = 8
"""Devices that share a machine, and with it the fast interconnect: those of a DGX or HGX board."""


@dataclass(frozen=True)
class Partition:
    """Over which devices a module is partitioned.

    Attributes:
      devices: how many.
      axes: (name, size) of each axis of its mesh; empty where it has none.
      order: the device at each place of the mesh, by its place in the order in which they were assigned; empty where
        that is counting.
    """

    devices: int = 1
    axes: tuple[tuple[str, int], ...] = ()
    order: tuple[int, ...] = ()

    @property
    def devices_of_a_machine(self) -> int:
        """As many as share a machine, on all of them alike."""
        return max(size for size in range(1, DEVICES_PER_MACHINE + 1) if self.devices % size == 0)

    def axes_of(self, groups: Sequence[Sequence[int]]) -> tuple[str, ...] | None:
        """The axes along which groups of devices lie, in the order of the mesh; None where they follow no axes."""
        wanted = {frozenset(group) for group in groups}
        names = [name for name, size in self.axes if size > 1]
        for count in range(len(names) + 1):
            for chosen in itertools.combinations(names, count):
                if {frozenset(group) for group in self._groups(chosen)} == wanted:
                    return chosen
        return None

    def _groups(self, chosen: Sequence[str]) -> list[list[int]]:
        sizes = [size for _, size in self.axes]
        places = np.asarray(self.order or range(self.devices)).reshape(sizes)
        inner = [place for place, (name, _) in enumerate(self.axes) if name in chosen]
        outer = [place for place in range(len(sizes)) if place not in inner]
        length = math.prod(sizes[place] for place in inner)
        return places.transpose(*outer, *inner).reshape(-1, length).tolist()


ONE = Partition()
