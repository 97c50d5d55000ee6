"""The devices that a program can be compiled for, and the hardware facts that XLA needs to know of them."""

import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

from normbench.errors import unknown
from normbench.schema import DEVICELESS_TARGETS, TARGETS


@dataclass(frozen=True)
class Target:
    """A device to compile for.

    Attributes:
      name: "h200", ...
      config: text `GpuTargetConfigProto`; the hardware facts.
      device_name: as the vendor spells it.
      memory_bandwidth: bytes per second, by datasheet.
      memory_bytes: device memory.
      l2_bytes: last-level cache.
      core_memory_bytes: registers and shared memory of one multiprocessor.
      cores: multiprocessors.
    """

    name: str
    config: str
    device_name: str
    memory_bandwidth: float
    memory_bytes: int
    l2_bytes: int
    core_memory_bytes: int
    cores: int


def check_target(name: str) -> str:
    """Returns `name`, or raises UserError for a target that does not exist."""
    if name not in TARGETS:
        raise unknown("target", name, TARGETS)
    return name


@cache
def deviceless_target(name: str) -> Target:
    """The facts of a device that need not be there.

    Raises:
      UserError: for an unknown name.
    """
    if name not in DEVICELESS_TARGETS:
        raise unknown("deviceless target", name, DEVICELESS_TARGETS)
    config = resources.files("analysis.fusion").joinpath("targets", f"{name}.txtpb").read_text()
    return target_from_config(name, config)


def facts_of(target: str | Target) -> Target | None:
    """The facts of a device that need not be there, given by name or as they are; None for one that is present.

    Raises:
      UserError: for an unknown name.
    """
    if isinstance(target, Target):
        return target
    return None if check_target(target) in ("cpu", "gpu") else deviceless_target(target)


def target_from_config(name: str, config: str) -> Target:
    """Reads a text `GpuTargetConfigProto`, as XLA writes it beside a dump (`*.gpu_target_config.pbtxt`).

    Raises:
      ValueError: where it lacks one of the facts.
    """
    registers_bytes = 4 * int(_fact(config, "registers_per_core_limit"))
    return Target(
        name=name,
        config=config,
        device_name=_fact(config, "name"),
        memory_bandwidth=float(_fact(config, "memory_bandwidth")),
        memory_bytes=int(_fact(config, "device_memory_size")),
        l2_bytes=int(_fact(config, "l2_cache_size")),
        core_memory_bytes=int(_fact(config, "shared_memory_per_core")) + registers_bytes,
        cores=int(_fact(config, "core_count")),
    )


def _fact(config: str, field: str) -> str:
    match = re.search(rf'^\s*{field}:\s*"?([^"\n]+)"?\s*$', config, re.MULTILINE)
    if match is None:
        raise ValueError(f"the target configuration has no field {field}")
    return match.group(1)
