"""What a process must start with, to compile for a GPU that is not there. Imports no JAX."""

import importlib.util
import os

from normbench.errors import UserError

GPU_TARGETS_HINT = "install the compiler plugin with: pip install 'normbench[gpu-targets]' (Linux only)"

# Without a device nothing can be autotuned; said aloud, XLA does not try.
_NO_AUTOTUNING = "--xla_gpu_autotune_level=0"


def compile_environment() -> dict[str, str]:
    """Environment variables for a process that compiles for GPU targets without a GPU.

    `JAX_PLATFORMS=cpu` keeps JAX from looking for NVIDIA's libraries, which a compiler does not need. Flags of the
    user's own `XLA_FLAGS` are kept.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_gpu_autotune_level" not in flags:
        flags = f"{flags} {_NO_AUTOTUNING}".strip()
    return {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}


def require_gpu_targets() -> None:
    """Raises UserError where the plugin that compiles for CUDA devices is not installed."""
    if not any(importlib.util.find_spec(name) for name in ("jax_cuda13_plugin", "jax_cuda12_plugin")):
        raise UserError(f"GPU targets need XLA's CUDA compiler, which is not installed; {GPU_TARGETS_HINT}")
