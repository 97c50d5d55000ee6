"""What NVIDIA's driver tells of the first GPU: its state, by NVML, and the size of its L2 cache, by CUDA.

Both libraries come with the driver and need no rights. They are called in this process: a reading takes less than
a millisecond, so that it finds the clock of the load, not of the pause after it.
"""

import ctypes
import os
from collections.abc import Callable
from functools import lru_cache
from typing import Any

_SM_CLOCK = 1
_TEMPERATURE_SENSOR = 0
_L2_CACHE_SIZE = 38
_DONE = 0


def _load(name: str) -> Any:
    return ctypes.CDLL(name)


@lru_cache(maxsize=1)
def nvml_device(load: Callable[[str], Any] = _load) -> tuple[Any, Any] | None:
    """NVML and its handle of the device that JAX takes as the first; None where there is none."""
    try:
        library = load("libnvidia-ml.so.1")
    except OSError:
        return None
    handle = ctypes.c_void_p()
    if library.nvmlInit_v2() != _DONE:
        return None
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    if chosen.startswith(("GPU-", "MIG-")):
        found = library.nvmlDeviceGetHandleByUUID(chosen.encode(), ctypes.byref(handle))
    else:
        found = library.nvmlDeviceGetHandleByIndex_v2(int(chosen) if chosen.isdigit() else 0, ctypes.byref(handle))
    return (library, handle) if found == _DONE else None


def state(device: tuple[Any, Any]) -> tuple[float | None, float | None, float | None, float | None, int | None]:
    """Clock and highest clock in MHz, power in W, temperature in °C, and the bits of the throttle reasons; None for
    what the device does not tell."""
    library, handle = device

    def ask(function: str, kind: Any, *arguments: int) -> Any:
        value, call = kind(), getattr(library, function, None)  # another driver may lack it
        return value.value if call and call(handle, *arguments, ctypes.byref(value)) == _DONE else None

    power_mw = ask("nvmlDeviceGetPowerUsage", ctypes.c_uint)
    return (
        ask("nvmlDeviceGetClockInfo", ctypes.c_uint, _SM_CLOCK),
        ask("nvmlDeviceGetMaxClockInfo", ctypes.c_uint, _SM_CLOCK),
        None if power_mw is None else power_mw / 1000,
        ask("nvmlDeviceGetTemperature", ctypes.c_uint, _TEMPERATURE_SENSOR),
        ask("nvmlDeviceGetCurrentClocksThrottleReasons", ctypes.c_ulonglong),
    )


def l2_cache_bytes(load: Callable[[str], Any] = _load) -> int | None:
    """Size of the L2 cache of the first GPU; None where there is none."""
    try:
        library = load("libcuda.so.1")
    except OSError:
        return None
    device, size = ctypes.c_int(), ctypes.c_int()
    if library.cuInit(0) != _DONE or library.cuDeviceGet(ctypes.byref(device), 0) != _DONE:
        return None
    done = library.cuDeviceGetAttribute(ctypes.byref(size), _L2_CACHE_SIZE, device)
    return size.value if done == _DONE and size.value > 0 else None
