"""What can this machine measure, and what would make its numbers untrustworthy?"""

import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, requires

from normbench.fusion.ptx import find_ptxas
from normbench.study.clocks.device_records import missing
from normbench.study.doctor.check import JAX_RANGE, Check, version_tuple
from normbench.study.doctor.tracking import tracking
from normbench.study.machine import environment

PLUGIN = "jax-cuda13-plugin"
INSTALL_GPU_TARGETS = "pip install 'normbench[gpu-targets]'"
INSTALL_TPU_TARGETS = "pip install 'normbench[tpu-targets]'"

_SUPPORTED = {
    # Lowest supported, first not supported.
    "python": ((3, 11), (3, 14)),
    "jax": JAX_RANGE,
    "numpy": ((2, 0), None),
    "pandas": ((2, 2), None),
    "pyarrow": ((16,), None),
}


def examine() -> tuple[Check, ...]:
    """All checks, in the order in which they are printed. Imports neither JAX nor pandas."""
    return tuple(check for checks in (_machine, _compilers, _software, tracking) for check in checks())


def _machine() -> Iterator[Check]:
    yield Check("processor", "ok", f"{environment.cpu_model() or 'unknown'} ({platform.machine()})")
    yield cores_check(environment.usable_cores(), os.cpu_count() or 1)
    yield caches_check(environment.cache_bytes())
    yield memory_check(environment.available_memory_bytes())
    yield governor_check(environment.governor())
    yield load_check(environment.load_average(), environment.usable_cores())
    yield timer_check(timer_resolution_s())
    yield allocator_check(platform.libc_ver()[0], os.environ)


def cores_check(usable: int, total: int) -> Check:
    found = f"{usable} of {total} usable"
    if usable < 2:
        return Check(
            "cores", "warn", found, "the system's own work is measured too; use a machine with 2 cores or more"
        )
    return Check("cores", "ok", found)


def caches_check(sizes: dict[str, int]) -> Check:
    if not sizes:
        assumed = environment.DEFAULT_LAST_LEVEL_CACHE_BYTES // 2**20
        return Check(
            "caches", "warn", "sizes not told by the system", f"{assumed} MiB is assumed for cold measurements"
        )
    return Check("caches", "ok", ", ".join(f"{name} {size / 2**20:g} MiB" for name, size in sizes.items()))


def memory_check(available_bytes: int | None) -> Check:
    if available_bytes is None:
        return Check("memory", "warn", "not told by the system", "keep to the presets smoke and quick")
    found = f"{available_bytes / 2**30:.1f} GiB available"
    if available_bytes < 4 * 2**30:
        return Check(
            "memory", "warn", found, "cold measurements rotate many inputs: have 4 GiB free, 16 for preset full"
        )
    return Check("memory", "ok", found)


def governor_check(governor: str | None) -> Check:
    if governor is None:
        return Check("governor", "ok", "none to set (virtual machine or fixed frequency)")
    if governor == "performance":
        return Check("governor", "ok", governor)
    return Check("governor", "warn", governor, "the clock rate varies: sudo cpupower frequency-set -g performance")


def load_check(load: list[float] | None, cores: int) -> Check:
    if load is None:
        return Check("load", "warn", "not told by the system", "make sure that nothing else runs")
    found = f"{load[0]:.2f} over the last minute on {cores} cores"
    if load[0] > 0.2 * cores:
        return Check("load", "warn", found, "something else is running: its work is in the samples; wait, or stop it")
    return Check("load", "ok", found)


def timer_resolution_s(readings: int = 1000) -> float:
    """The smallest step between two readings of the clock that times the samples."""
    steps = []
    for _ in range(readings):
        start = end = time.perf_counter_ns()
        while end == start:
            end = time.perf_counter_ns()
        steps.append(end - start)
    return min(steps) * 1e-9


def timer_check(resolution_s: float) -> Check:
    found = f"{resolution_s * 1e9:.0f} ns"
    if resolution_s > 1e-6:
        return Check("timer", "warn", found, "samples of a few microseconds are coarse: trust the pipelined clock only")
    return Check("timer", "ok", found)


def allocator_check(libc: str, variables) -> Check:
    """The workers set glibc's thresholds for themselves, which another allocator ignores."""
    preload = variables.get("LD_PRELOAD", "")
    if any(name in preload for name in ("jemalloc", "tcmalloc", "mimalloc")):
        return Check(
            "allocator", "warn", f"LD_PRELOAD={preload}", "the workers' settings are for glibc: unset LD_PRELOAD"
        )
    if libc != "glibc":
        return Check("allocator", "warn", libc or "unknown libc", "outputs of 16 MB or more may come from fresh pages")
    return Check("allocator", "ok", "glibc; the workers set its thresholds")


def _compilers() -> Iterator[Check]:
    yield gpu_check(environment.gpu_present(), environment.nvidia_driver())
    yield plugin_check(environment.package_version(PLUGIN), environment.package_version("jaxlib"))
    yield ptxas_check(find_ptxas())
    yield libtpu_check(environment.package_version("libtpu"), libtpu_of_jax(), environment.package_version("jax"))
    if told := missing():
        yield Check("gpu clocks", "missing", "; ".join(told), "on a machine with one: make gpu PRESET=standard")


def gpu_check(present: bool, driver: str | None) -> Check:
    if present:
        return Check("gpu", "ok", driver or "present")
    return Check("gpu", "missing", "no NVIDIA GPU", "times are measured on the cpu; GPU targets are compiled only")


def plugin_check(plugin: str | None, jaxlib: str | None) -> Check:
    if plugin is None:
        return Check("gpu-targets", "missing", f"{PLUGIN} is not installed", INSTALL_GPU_TARGETS)
    found = f"{PLUGIN} {plugin}, jaxlib {jaxlib}"
    if version_tuple(plugin)[:3] != version_tuple(jaxlib or "")[:3]:
        return Check("gpu-targets", "warn", found, f"plugin and jaxlib are not in step: {INSTALL_GPU_TARGETS}")
    return Check("gpu-targets", "ok", found)


def libtpu_of_jax() -> str | None:
    """The libtpu that the extra `tpu` of the installed JAX asks for, as far as it names one: "0.0.42"."""
    try:
        wanted = requires("jax") or []
    except PackageNotFoundError:
        return None
    found = (re.match(r"libtpu==([\d.]*\d)", requirement) for requirement in wanted)
    return next((match[1] for match in found if match), None)


def libtpu_check(libtpu: str | None, wanted: str | None, jax: str | None) -> Check:
    if libtpu is None:
        return Check("tpu-targets", "missing", "libtpu is not installed", INSTALL_TPU_TARGETS)
    found = f"libtpu {libtpu}, jax {jax}"
    parts = version_tuple(wanted or "")
    if version_tuple(libtpu)[: len(parts)] != parts:
        return Check("tpu-targets", "warn", found, f"libtpu and jax are not in step: {INSTALL_TPU_TARGETS}")
    return Check("tpu-targets", "ok", found)


def ptxas_check(path: str | None) -> Check:
    if path is None:
        return Check(
            "ptxas",
            "missing",
            "not found",
            "no registers, spills and machine code of Mosaic's kernels without it: pip install nvidia-cuda-nvcc",
        )
    return Check("ptxas", "ok", path)


def _software() -> Iterator[Check]:
    yield version_check("python", platform.python_version())
    for name in ("jax", "numpy", "pandas", "pyarrow"):
        yield version_check(name, environment.package_version(name))
    yield jaxlib_check(environment.package_version("jaxlib"), environment.package_version("jax"))
    yield imports_check(failing_imports())


MODULES = ("jax", "jaxlib", "numpy", "pandas", "pyarrow.parquet", "matplotlib", "zstandard", "ml_dtypes")
"""What a study imports. The compiler for GPU targets beside them, where its package is installed."""


def failing_imports(modules: Sequence[str] = MODULES) -> dict[str, str]:
    """The modules that cannot be imported, each with why: a package can be installed, and broken. Tried in a process
    of its own, so that this one stays free of them."""
    plugin = (PLUGIN.replace("-", "_"),) if environment.package_version(PLUGIN) else ()
    variables = {**os.environ, "JAX_PLATFORMS": "cpu"}
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _TRY, *modules, *plugin],
            env=variables, capture_output=True, text=True, timeout=IMPORTS_S,
        )  # fmt: skip
        return json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return {"python": f"the process that tries them ended without a word ({type(error).__name__})"}


IMPORTS_S = 120.0
_TRY = """
import contextlib, importlib, json, os, sys
found = {}
with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
    for name in sys.argv[1:]:
        try:
            importlib.import_module(name)
        except BaseException as error:
            found[name] = " ".join(f"{type(error).__name__}: {error}".split())[:200]
print(json.dumps(found))
"""


def imports_check(failing: dict[str, str]) -> Check:
    if failing:
        told = "; ".join(f"{name}: {why}" for name, why in failing.items())
        return Check("imports", "warn", told, "install them again: pip install --force-reinstall normbench")
    return Check("imports", "ok", "what a study needs can be imported")


def version_check(name: str, version: str | None) -> Check:
    lowest, limit = _SUPPORTED[name]
    allowed = f">= {_dotted(lowest)}" + (f", < {_dotted(limit)}" if limit else "")
    if version is None:
        return Check(name, "missing", "not installed", f"pip install '{name} {allowed}'")
    inside = version_tuple(version) >= lowest and (limit is None or version_tuple(version) < limit)
    return Check(name, "ok", version) if inside else Check(name, "warn", version, f"supported: {allowed}")


def jaxlib_check(jaxlib: str | None, jax: str | None) -> Check:
    if jaxlib is None or jax is None:
        return Check("jaxlib", "missing", "jax or jaxlib not installed", "pip install jax")
    if version_tuple(jaxlib)[:3] != version_tuple(jax)[:3]:
        return Check("jaxlib", "warn", f"jaxlib {jaxlib}, jax {jax}", f"not in step: pip install jaxlib=={jax}")
    return Check("jaxlib", "ok", jaxlib)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(number) for number in version)
