"""Devices that a user described in a file of his own: by name, for this process and those that it starts."""

import json
import os
from dataclasses import asdict, dataclass

from normbench.schema import DEVICELESS_TARGETS

_VARIABLE = "NORMBENCH_OWN_TARGETS"
DEVICES = ("cpu", "gpu")
"""Targets that are measured; every other is only compiled for."""


@dataclass(frozen=True)
class OwnTarget:
    """A described device.

    Attributes:
      name: of the target.
      config: text `GpuTargetConfigProto`, with the fields that are known.
      major, minor: its compute capability.
    """

    name: str
    config: str
    major: int
    minor: int


def add(target: OwnTarget) -> None:
    """Makes the target known here and to processes that are started from here."""
    os.environ[_VARIABLE] = json.dumps({**_known(), target.name: asdict(target)})


def own_target(name: str) -> OwnTarget | None:
    found = _known().get(name)
    return None if found is None else OwnTarget(**found)


def deviceless(name: str) -> bool:
    """Whether `name` is a device that need not be there, packaged or a user's own."""
    return name in DEVICELESS_TARGETS or name in _known()


def names() -> tuple[str, ...]:
    return tuple(_known())


def _known() -> dict[str, dict]:
    described = os.environ.get(_VARIABLE)
    return json.loads(described) if described else {}
