"""Which devices the kernels of a family are compiled for, and why they are nothing for another one."""

from normbench.own_targets import own_target
from normbench.schema import TPU_TARGETS

TRITON_TARGETS = ("gpu", "a100", "h100", "h200", "b200")
"""Ampere and newer; "gpu" is the device that is present, which its compiler refuses where it is older."""
MOSAIC_TARGETS = ("gpu", "h100", "h200", "b200")

FP8_TARGETS = ("gpu", "h100", "h200", "b200")
PALLAS_TPU_TARGETS = TPU_TARGETS[1:]
"""v4 has 16 MiB of VMEM, of which the kernels take more."""

AMPERE, ADA, HOPPER = (8, 0), (8, 9), (9, 0)
"""Compute capabilities: what a device in a file of the user's own has to have."""


def not_for_triton(target: str) -> str | None:
    """The reason why Pallas Triton is nothing for `target`, or None."""
    return _target_refusal(target, TRITON_TARGETS, AMPERE, "Pallas Triton needs Ampere or newer")


def not_for_mosaic(target: str) -> str | None:
    """The reason why Pallas Mosaic is nothing for `target`, or None."""
    return _target_refusal(target, MOSAIC_TARGETS, HOPPER, "Mosaic GPU needs the bulk copies of Hopper or newer")


def not_for_fp8(target: str) -> str | None:
    """The reason why Pallas Triton rounds nothing to float8_e4m3fn for `target`, or None."""
    return _target_refusal(target, FP8_TARGETS, ADA, "conversions to float8_e4m3fn need Ada or newer")


def is_tpu(target: str) -> bool:
    """Whether `target` is a TPU."""
    return target in TPU_TARGETS


def not_for_tpu(target: str) -> str | None:
    """The reason why Pallas TPU is nothing for `target`, or None."""
    if target == "cpu":
        return "compiled for TPU targets only; a CPU checks it in interpret mode and never times it"
    if target in PALLAS_TPU_TARGETS:
        return None
    need = "the kernels take 48 MiB of VMEM, a v4 has 16" if is_tpu(target) else "Mosaic TPU compiles for TPUs"
    return f"target {target}; {need} ({', '.join(PALLAS_TPU_TARGETS)})"


def _target_refusal(target: str, allowed: tuple[str, ...], least: tuple[int, int], need: str) -> str | None:
    if target == "cpu":
        return "compiled for GPU targets only; a CPU checks it in interpret mode and never times it"
    own = own_target(target)
    if own is not None and (own.major, own.minor) >= least:
        return None
    return None if target in allowed else f"target {target}; {need} ({', '.join(allowed[1:])})"
