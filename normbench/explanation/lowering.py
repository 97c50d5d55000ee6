"""From a call to the module that the compiler gets, and what can be said before it is compiled."""

import time
from typing import Any

from normbench import jax_compat
from normbench.errors import UserError
from normbench.explanation.call import Call
from normbench.fusion.compilation import Compilation
from normbench.fusion.isolation import CompileError
from normbench.fusion.targets import TPU, Target, facts_of, platform_of
from normbench.fusion.tpu.hints import NO_REFUSALS
from normbench.jax_compat.meshes import settle_devices, unsharded_kernels


def lowered_call(call: Call, target: str) -> tuple[bytes, float]:
    """Traces and lowers a call for a target; returns the StableHLO module as bytecode and the seconds it took.

    Raises:
      UserError: for what can only be compiled where the device is (callbacks into Python, cuDNN), a sharding that does
        not divide its array, an axis that no mesh has, a hand-written kernel that nothing divides between devices, and
        arguments and results that do not fit the device.
      CompileError: where JAX cannot lower it.
      Exception: whatever the function raises while it is traced.
    """
    facts = facts_of(target)
    start = time.perf_counter()
    with jax_compat.no_gpu_is_no_error():
        traced, mesh = _traced(call, facts)
        if facts is not None:
            _require_no_callbacks(traced, target)
        lowered = _lowered(call, traced, target, mesh)
    lower_s = time.perf_counter() - start
    devices = settle_devices(lowered)
    _require_divided(traced, devices)
    if facts is not None and devices == 1:  # of several, each has but a part, which only the compiler knows
        _require_memory(lowered, facts)
    return jax_compat.module_bytecode(lowered), lower_s


def _traced(call: Call, facts: Target | None) -> tuple[Any, Any]:
    device_kind = facts.device_name if facts else None

    def trace() -> tuple[Any, Any]:
        return jax_compat.trace_call(call.function, call.inputs, call.keywords, device_kind)

    try:
        return trace()
    except (ValueError, NameError) as error:
        _raise_of_sharding(error)
        raise
    except AssertionError as error:
        if str(error) or jax_compat.raised_in(trace) != "pvary":
            raise
        raise UserError(f"{_NOT_DIVIDED}: a collective in jax.shard_map names an axis that its mesh lacks") from error
    except RuntimeError as error:
        if "cudnn" not in str(error).lower():
            raise
        raise UserError(
            f"{call.name} asks for cuDNN, which JAX does not find here ({_line(error)}); cuDNN's attention can only be "
            "compiled where cuDNN is: take implementation='xla' in jax.nn.dot_product_attention"
        ) from error


_NOT_DIVIDED = "the function cannot be divided between devices as it was asked"
_OF_SHARDING = ("evenly divi", "divisible by", "unbound axis name", "not found in mesh", "must refer to an axis marked")


def _raise_of_sharding(error: Exception) -> None:
    """Raises UserError where JAX says that a sharding does not fit an array, or that a mesh lacks an axis."""
    words = " ".join(str(error).split())
    if any(part in words for part in _OF_SHARDING):
        raise UserError(f"{_NOT_DIVIDED}: {words[:300]}") from error


def _require_no_callbacks(traced: Any, target: str) -> None:
    found = sorted(jax_compat.callbacks_of(traced))
    if found:
        raise UserError(
            f"the function calls back into Python ({', '.join(found)}), which JAX cannot lower for {target!r}, a "
            "device that is not there: leave the callback out, or explain it for target 'cpu'"
        )


def _lowered(call: Call, traced: Any, target: str, mesh: Any) -> Any:
    try:
        return jax_compat.lower_traced(traced, mesh, platform_of(target))
    except Exception as error:
        if mesh is not None and jax_compat.is_of_two_meshes(error):
            traced, _ = jax_compat.trace_call(call.function, call.inputs, call.keywords, None)
            return _lowered(call, traced, target, None)
        _raise_of_sharding(error)
        if jax_compat.is_without_device(error):
            devices = jax_compat.devices_of((call.inputs, call.keywords))
            _require_divided(traced, devices)
            raise UserError(
                f"the function calls a Pallas kernel over a mesh of devices that are no {target!r}, and JAX asks the "
                f"mesh what they are: take normbench.mesh({max(devices, 1)}, ..., target={target!r}) in its place"
            ) from error
        raise CompileError(
            "failed", f"JAX cannot lower the function for {target!r}: {type(error).__name__}: {_line(error)}"
        ) from error


def _require_divided(traced: Any, devices: int) -> None:
    """Raises UserError for a hand-written kernel that nothing divides between devices."""
    found = sorted(unsharded_kernels(traced)) if devices > 1 else []
    if found:
        raise UserError(
            f"{', '.join(found)}: a Pallas kernel outside of jax.shard_map, in a program for {devices} devices, which "
            "the compiler cannot divide between them: call it within jax.shard_map, on the part of one device"
        )


def _require_memory(lowered: Any, facts: Target) -> None:
    arguments, results = jax_compat.entry_bytes(lowered)
    if arguments + results > facts.memory_bytes:
        raise UserError(
            f"arguments of {_gigabytes(arguments)} and results of {_gigabytes(results)} do not fit {facts.name!r}, "
            f"which has {_gigabytes(facts.memory_bytes)} of memory"
        )


def target_notes(compilation: Compilation) -> tuple[str, ...]:
    """What there is to say of a compiled program on its target: whether it fits, and what is not known there."""
    facts = facts_of(compilation.target)
    if facts is None:
        return ()
    notes = (NO_REFUSALS,) if facts.platform == TPU else ()
    peak_bytes = compilation.peak_bytes
    if peak_bytes is None or peak_bytes <= facts.memory_bytes:
        return notes
    return (
        f"the program needs {_gigabytes(peak_bytes)} at its peak, more than the {_gigabytes(facts.memory_bytes)} of "
        f"{compilation.target!r}: it would run out of memory",
        *notes,
    )


def _gigabytes(size: int) -> str:
    return f"{size / 1e12:.1f} TB" if size >= 1e12 else f"{size / 1e9:.1f} GB"


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")[:300]
