"""The devices that a program can be compiled for, and the hardware facts that XLA needs to know of them."""

import importlib.util
import os
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from normbench import own_targets
from normbench.errors import UserError, unknown
from normbench.fusion.tpu.chips import CHIPS, Chip
from normbench.schema import DEVICELESS_TARGETS, TARGETS, TPU_TARGETS

_PACKAGES = ("jax", "jaxlib", "jax-cuda13-plugin", "jax-cuda13-pjrt")
"""What makes a program for a GPU of what JAX traced."""
_TPU_PACKAGES = ("jax", "jaxlib", "libtpu")
CUDA, TPU = "cuda", "tpu"
"""Platforms, as JAX lowers for them."""


@dataclass(frozen=True)
class Target:
    """A device to compile for.

    Attributes:
      name: "h200", "v6e", ...
      config: text `GpuTargetConfigProto`, the hardware facts; of a TPU its name in libtpu's topologies.
      device_name: as the vendor spells it; of a TPU as JAX does.
      memory_bandwidth: bytes per second, by datasheet.
      memory_bytes: device memory.
      l2_bytes: last-level cache; of a TPU its VMEM.
      core_memory_bytes: registers and shared memory of one multiprocessor; of a TPU its VMEM.
      cores: multiprocessors; of a TPU its TensorCores.
      platform: CUDA or TPU.
    """

    name: str
    config: str
    device_name: str
    memory_bandwidth: float
    memory_bytes: int
    l2_bytes: int
    core_memory_bytes: int
    cores: int
    platform: str = CUDA

    @property
    def capability(self) -> tuple[int, int]:
        """Compute capability, major and minor; (0, 0) where the facts name none."""
        block = re.search(r"cuda_compute_capability\s*\{([^}]*)\}", self.config)
        numbers = dict(re.findall(r"(major|minor):\s*(\d+)", block[1])) if block else {}
        return int(numbers.get("major", 0)), int(numbers.get("minor", 0))


def check_target(name: str) -> str:
    """Returns `name`, or raises UserError for a target that does not exist."""
    if name not in (*TARGETS, *own_targets.names()):
        raise unknown("target", name, (*TARGETS, *own_targets.names()))
    return name


@cache
def deviceless_target(name: str) -> Target:
    """The facts of a device that need not be there.

    Raises:
      UserError: for an unknown name.
    """
    own = own_targets.own_target(name)
    if own is not None:
        return target_from_config(name, own.config)
    if name not in DEVICELESS_TARGETS:
        raise unknown("deviceless target", name, DEVICELESS_TARGETS)
    if name in TPU_TARGETS:
        return _tpu(CHIPS[name])
    config = resources.files("normbench.fusion").joinpath("targets", f"{name}.txtpb").read_text()
    return target_from_config(name, config)


def _tpu(chip: Chip) -> Target:
    return Target(
        name=chip.name,
        config=chip.name,
        device_name=chip.device_kind,
        memory_bandwidth=chip.memory_bytes_per_s,
        memory_bytes=chip.memory_bytes,
        l2_bytes=chip.vector_bytes,
        core_memory_bytes=chip.vector_bytes,
        cores=chip.cores,
        platform=TPU,
    )


def platform_of(target: str | Target) -> str:
    """The platform that JAX lowers for: "cpu", CUDA or TPU.

    Raises:
      UserError: for an unknown name.
    """
    facts = facts_of(target)
    if facts is not None:
        return facts.platform
    return "cpu" if target == "cpu" else CUDA


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
    match = re.search(rf'^\s*{field}:\s*(?:"([^"\n]*)"|([^\s"#]+))\s*(?:#.*)?$', config, re.MULTILINE)
    if match is None:
        raise ValueError(f"the target configuration has no field {field}")
    return match[1] or match[2]


GPU_TARGETS_HINT = "install the compiler plugin with: pip install 'normbench[gpu-targets]' (Linux only)"
TPU_TARGETS_HINT = "install it with: pip install 'normbench[tpu-targets]' (Linux only)"

# Without a device nothing can be autotuned; said aloud, XLA does not try.
_NO_AUTOTUNING = "--xla_gpu_autotune_level=0"


def compile_environment(threads: int | None = None) -> dict[str, str]:
    """Environment variables for a process that compiles for targets that are not there.

    `JAX_PLATFORMS=cpu` keeps JAX from looking for NVIDIA's libraries, which a compiler does not need. Flags of the
    user's own `XLA_FLAGS` are kept.

    Args:
      threads: with which a program is compiled for a GPU, which changes nothing of it; None: as many as XLA sees cores.
    """
    own = os.environ.get("XLA_FLAGS", "")
    flags = [own] if own else []
    if "xla_gpu_autotune_level" not in own:
        flags.append(_NO_AUTOTUNING)
    if threads is not None and "xla_gpu_force_compilation_parallelism" not in own:
        flags.append(f"--xla_gpu_force_compilation_parallelism={threads}")
    return {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join(flags)}


def require_gpu_targets() -> None:
    """Raises UserError where the plugin that compiles for CUDA devices is not installed."""
    if not any(importlib.util.find_spec(name) for name in ("jax_cuda13_plugin", "jax_cuda12_plugin")):
        raise UserError(f"GPU targets need XLA's CUDA compiler, which is not installed; {GPU_TARGETS_HINT}")


def require_tpu_targets() -> None:
    """Raises UserError where the compiler for TPUs is not installed."""
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(f"TPU targets need XLA's TPU compiler, libtpu, which is not installed; {TPU_TARGETS_HINT}")


def require_compilers(*targets: str | Target) -> None:
    """Raises UserError where the compiler of one of the targets that need not be there is not installed."""
    found = (facts_of(target) for target in targets)
    for platform in {facts.platform for facts in found if facts is not None}:
        (require_tpu_targets if platform == TPU else require_gpu_targets)()


def read_target(path: Path) -> Target:
    """The facts in a dumped configuration; its name is that of the packaged target of the same device, else "gpu".

    Raises:
      UserError: where it cannot be read, or lacks a fact.
    """
    try:
        found = target_from_config("gpu", path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"target configuration {str(path)!r} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{str(path)!r} is no target configuration as XLA dumps it: {error}") from error
    same = packaged(found)
    return target_from_config(same.name, found.config) if same else found


def packaged(target: Target) -> Target | None:
    """The target that comes with the package and names the same device, or None."""
    known = (deviceless_target(name) for name in DEVICELESS_TARGETS)
    return next((one for one in known if one.device_name == target.device_name), None)


def compiler_versions(platform: str = CUDA) -> dict[str, str]:
    """The versions of the packages that make a program of what JAX traced; empty for one that is not installed."""
    found = {}
    for name in _TPU_PACKAGES if platform == TPU else _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found
