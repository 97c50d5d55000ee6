"""What a run was measured on: versions, processor, caches, memory, environment variables, revision of the source."""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import normbench

DEFAULT_LAST_LEVEL_CACHE_BYTES = 32 * 2**20
"""Taken where the system does not tell the size of the last-level cache: that of a common server core complex."""

PACKAGES = (
    "jax",
    "jaxlib",
    "jax-cuda13-plugin",
    "jax-cuda13-pjrt",
    "libtpu",
    "numpy",
    "ml-dtypes",
    "pandas",
    "pyarrow",
    "matplotlib",
    "zstandard",
    "pytensor",
    "numba",
    "scipy",
    "flax",
    "tokamax",
    "transformer-engine",
    "transformer-engine-jax",
    "torch",
    "triton",
    "liger-kernel",
    "quack-kernels",
    "apex",
)
_VARIABLES = ("XLA_", "JAX_", "MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
_SYSTEM = Path("/sys/devices/system/cpu")


def environment(devices: bool = False) -> dict[str, Any]:
    """The environment record of run.json; what cannot be found out is None.

    Args:
      devices: also ask JAX for its devices, which starts its backends in this process.
    """
    record: dict[str, Any] = {
        "host": host_name(),
        "normbench": normbench.__version__,
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "libc": " ".join(platform.libc_ver()).strip() or None,
        "cpu_model": cpu_model(),
        "cpu": cpu(),
        "memory_bytes": memory_bytes(),
        "load_average": load_average(),
        "nvidia_driver": nvidia_driver(),
        "gpu_models": gpu_models(),
        "variables": variables(),
        "git": git_state(),
        "command": " ".join(sys.argv),
    }
    if devices:
        record["devices"] = jax_devices()
    return record


def host_name() -> str:
    """What rows call this machine: `NORMBENCH_HOST`, for who would not publish its name, or its name."""
    return os.environ.get("NORMBENCH_HOST") or platform.node() or "unknown"


def device_id(device: str) -> str | None:
    """Which GPU of this host JAX takes as the first, as the driver numbers or names it; None for a CPU."""
    if device != "gpu":
        return None
    return os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip() or "0"


def package_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu() -> dict[str, Any]:
    return {
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "governor": governor(),
        "cache_bytes": cache_bytes(),
    }


def cpu_model() -> str | None:
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or None


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def governor() -> str | None:
    """The frequency governor of the first core; None where the system has none (most virtual machines)."""
    return _read(_SYSTEM / "cpu0/cpufreq/scaling_governor").strip() or None


def cache_bytes() -> dict[str, int]:
    """Size of each cache that the first core sees, by name: "L1d", "L1i", "L2", "L3"."""
    sizes = {}
    for folder in sorted((_SYSTEM / "cpu0/cache").glob("index*")):
        kind = {"Data": "d", "Instruction": "i"}.get(_read(folder / "type").strip(), "")
        size = _bytes(_read(folder / "size").strip())
        if size:
            sizes[f"L{_read(folder / 'level').strip()}{kind}"] = size
    return sizes


def last_level_cache_bytes() -> int | None:
    """Size of the largest cache that the first core sees, or None where the system does not tell it."""
    return max(cache_bytes().values(), default=None)


def _bytes(text: str) -> int | None:
    """Reads "32768K"."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    number = text.rstrip("KMG")
    return int(number) * units.get(text[-1], 1) if number.isdigit() else None


def memory_bytes() -> int | None:
    return _memory("MemTotal")


def available_memory_bytes() -> int | None:
    return _memory("MemAvailable")


def _memory(name: str) -> int | None:
    for line in _read(Path("/proc/meminfo")).splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None


def load_average() -> list[float] | None:
    """Processes that wanted to run, averaged over 1, 5 and 15 minutes."""
    return list(os.getloadavg()) if hasattr(os, "getloadavg") else None


def nvidia_driver() -> str | None:
    """Version line of the NVIDIA kernel driver; None where there is none."""
    lines = _read(Path("/proc/driver/nvidia/version")).splitlines()
    return lines[0].partition(":")[2].strip() if lines else None


def gpu_models() -> list[str]:
    """The names of NVIDIA's GPUs in this machine, as the driver tells them."""
    files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    lines = (line.partition(":") for file in files for line in _read(file).splitlines())
    return [value.strip() for name, _, value in lines if name.strip() == "Model"]


def gpu_present() -> bool:
    return nvidia_driver() is not None and any(Path("/dev").glob("nvidia[0-9]*"))


def variables() -> dict[str, str]:
    """The environment variables that change what XLA, JAX or the allocator do."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(_VARIABLES)}


def lowering_context() -> str:
    """What decides, beside the code of this package, which program a case is lowered to."""
    versions = {name: package_version(name) for name in PACKAGES}
    return json.dumps([versions, variables(), platform.python_version_tuple()[:2], platform.machine()])


def git_state() -> dict[str, Any]:
    """Revision of the source tree that this package lies in, and whether it has changes; None outside of git."""
    status = _git("status", "--porcelain", "--untracked-files=no")
    return {"revision": _git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def _git(*arguments: str) -> str | None:
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(("git", "-C", str(root), *arguments), capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def jax_devices() -> list[dict[str, Any]]:
    import jax

    return [{"platform": device.platform, "kind": device.device_kind, "id": device.id} for device in jax.devices()]


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
