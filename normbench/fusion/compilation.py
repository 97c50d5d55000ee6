"""Compiles a function for a target, in this process, and reads what came out.

XLA can abort the process; whoever cannot afford that starts a process for it (`normbench.explanation.explain`, the
study's workers).
"""

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from normbench import jax_compat
from normbench.errors import UserError
from normbench.fusion.hlo import read_module, without_numbers
from normbench.fusion.machine_code.assembly import KERNEL_CACHE
from normbench.fusion.machine_code.mosaic import MOSAIC_PRINTED
from normbench.fusion.program.partition import ONE, Partition
from normbench.fusion.program.repeated import repeated_cost
from normbench.fusion.reading import Reading, read_program
from normbench.fusion.targets import (
    CUDA,
    GPU_TARGETS_HINT,
    TPU,
    TPU_TARGETS_HINT,
    Target,
    check_target,
    facts_of,
    platform_of,
    require_compilers,
)
from normbench.fusion.tpu.chips import CHIPS
from normbench.jax_compat.meshes import mesh_of
from normbench.jax_compat.mosaic_dump import mosaic_dump
from normbench.jax_compat.tpu_targets import absent_tpu_client

_DUMP_OPTIONS = {"xla_dump_hlo_as_proto": True, "xla_dump_hlo_pass_re": "priority-fusion"}


@dataclass(frozen=True)
class Compilation:
    """A function compiled for a target.

    Attributes:
      target: name of the target.
      hlo: serialized optimised HloModuleProto.
      hlo_text: the same as text.
      hlo_sha256: of the module in XLA's canonical form, in which names and source lines do not count.
      peak_bytes: of device memory, inputs and outputs included.
      lower_s, compile_s, read_s: what it took.
      reading: launches, bytes, hints.
      executable: takes the inputs; None for a device that is not there.
      notes: sentences about how it was compiled, where that was not as usual.
    """

    target: str
    hlo: bytes
    hlo_text: str
    hlo_sha256: str
    peak_bytes: int | None
    lower_s: float
    compile_s: float
    read_s: float
    reading: Reading
    executable: Callable[..., Any] | None
    notes: tuple[str, ...] = ()

    def compiled_row(self) -> dict[str, Any]:
        """The columns of the table `compiled`, but case, status and reason."""
        return {
            "target": self.target,
            **self.reading.compiled_columns(),
            **({"hints": json.dumps([*self.notes, *self.reading.hints])} if self.notes else {}),
            "peak_bytes": self.peak_bytes,
            "lower_s": self.lower_s,
            "compile_s": self.compile_s,
            "read_s": self.read_s,
            "hlo_sha256": self.hlo_sha256,
        }

    def launch_rows(self, assembled: bool = True) -> list[dict[str, Any]]:
        """The columns of the table `launches`, but case; registers and spills only where `assembled`."""
        return self.reading.launch_rows(self.target, assembled)


def lower_with_text(function: Callable, inputs: tuple, target: str | Target) -> tuple[bytes, str]:
    """Traces and lowers `function` for `target`; returns the StableHLO module as bytecode, and as text without source
    lines, equal for equal ones."""
    lowered = _lower(function, inputs, target)
    return jax_compat.module_bytecode(lowered), lowered.as_text()


def lower_to_bytecode(function: Callable, inputs: tuple, target: str | Target) -> tuple[bytes, float]:
    """Traces and lowers `function` for `target`; returns the StableHLO module as bytecode, and the seconds it took."""
    start = time.perf_counter()
    bytecode = jax_compat.module_bytecode(_lower(function, inputs, target))
    return bytecode, time.perf_counter() - start


def compile_for(function: Callable, inputs: tuple, target: str) -> Compilation:
    """Compiles `function(*inputs)` for `target` and reads the result.

    Args:
      function: jittable.
      inputs: pytrees of `jax.ShapeDtypeStruct` or arrays, one per positional argument.
      target: "cpu", "gpu" (the one present), or a device that need not be there: "h200", "h100", "a100", "b200",
        "v4", "v5e", "v5p", "v6e", "tpu7x".

    Raises:
      UserError: for an unknown target, or where the compiler plugin is missing.
      Exception: whatever tracing and compiling raise.
    """
    check_target(target)
    if target not in ("cpu", "gpu"):
        bytecode, lower_s = lower_to_bytecode(function, inputs, target)
        return compile_bytecode_for(bytecode, target, lower_s)
    start = time.perf_counter()
    lowered = _lower(function, inputs, target)
    return _compile_present(lowered, target, time.perf_counter() - start)


def compile_bytecode_for(bytecode: bytes, target: str | Target, lower_s: float) -> Compilation:
    """Compiles a lowered module for a target, by name or by its facts; the result has no executable.

    What XLA's own tiling of matrix products cannot do where nothing can be tuned is compiled again without it, and
    the compilation says so.
    """
    try:
        return _compile_bytecode(bytecode, target, lower_s, {})
    except Exception as error:
        reason = _no_tiling(error)
        if reason is None:
            raise
    return _compile_bytecode(bytecode, target, lower_s, _WITHOUT_TRITON_PRODUCTS, (_TRITON_NOTE.format(reason),))


_NO_TILING = ("Couldn't find output tile sizes", "No supported config found for HLO: %gemm_fusion_dot")
"""What JAX 0.10.2 and 0.11.2 say of the same programs; 0.12 compiles them."""
_WITHOUT_TRITON_PRODUCTS = {"xla_gpu_enable_triton_gemm": False}
_TRITON_NOTE = (
    "compiled with --xla_gpu_enable_triton_gemm=false: where there is no device to tune on, XLA does not compile this "
    "program with Triton's matrix products ({})"
)


def _no_tiling(error: Exception) -> str | None:
    """What XLA says where its tiling of matrix products fails; None for another error, and where the user has set the
    flag himself."""
    if "xla_gpu_enable_triton_gemm" in os.environ.get("XLA_FLAGS", ""):
        return None
    return next((words for words in _NO_TILING if words in str(error)), None)


def _compile_bytecode(
    bytecode: bytes, target: str | Target, lower_s: float, more: dict[str, Any], notes: tuple[str, ...] = ()
) -> Compilation:
    name = target.name if isinstance(target, Target) else target
    with tempfile.TemporaryDirectory(prefix="normbench-") as folder:
        dump = Path(folder) if platform_of(target) == CUDA else None  # libtpu writes none
        options = {**_options(dump), **more}
        if dump is not None:
            options["xla_gpu_kernel_cache_file"] = str(dump / KERNEL_CACHE)
        facts = facts_of(target)
        partition = Partition(*mesh_of(bytecode))
        client = _client(facts, partition) if facts else _present(name, partition)
        start = time.perf_counter()
        with _mosaic_dump(dump if b"mosaic_gpu" in bytecode else None):
            compiled = jax_compat.compile_bytecode(bytecode, client, options, facts is None, partition.devices)
        compile_s = time.perf_counter() - start
        found = _read(compiled.hlo_modules()[0], compiled.get_compiled_memory_stats(), name, facts, dump,
                      lower_s, compile_s, None, partition)  # fmt: skip
        return replace(found, notes=notes)


def _lower(function: Callable, inputs: tuple, target: str | Target) -> Any:
    facts = facts_of(target)
    return jax_compat.lower_for(function, inputs, platform_of(target), facts.device_name if facts else None)


def _options(dump: Path | None) -> dict[str, Any]:
    if dump is None:
        return {}
    return {"xla_dump_to": str(dump), **_DUMP_OPTIONS, **jax_compat.emitter_dump_options()}


def _mosaic_dump(dump: Path | None) -> contextlib.AbstractContextManager[None]:
    return mosaic_dump(dump / MOSAIC_PRINTED) if dump else contextlib.nullcontext()


def _client(target: Target, partition: Partition) -> Any:
    require_compilers(target)
    if target.platform == TPU:
        return _tpu_client(target, CHIPS[target.config].slice_of(partition.devices))
    return _gpu_client(target, partition.devices, partition.devices_of_a_machine)


@cache
def _gpu_client(target: Target, devices: int, devices_each: int) -> Any:
    try:
        return jax_compat.deviceless_client(target.config, devices // devices_each, devices_each)
    except ImportError as error:
        raise UserError(f"cannot compile for {target.name}: {error}; {GPU_TARGETS_HINT}") from error


@cache
def _tpu_client(target: Target, shape: tuple[int, ...]) -> Any:
    try:
        return absent_tpu_client(target.config, shape, CHIPS[target.config].megacore)
    except ImportError as error:
        raise UserError(f"cannot compile for {target.name}: {error}; {TPU_TARGETS_HINT}") from error


def _present(target: str, partition: Partition) -> Any:
    """The client of the devices of this process, which have to be as many as the program is for."""
    client = jax_compat.local_client(target)
    there = len(client.local_devices())
    if there < partition.devices:
        more = {
            "cpu": ": set XLA_FLAGS=--xla_force_host_platform_device_count="
            f"{partition.devices} before JAX starts, or name a target that need not be there, such as 'h200'"
        }
        raise UserError(
            f"the mesh has {partition.devices} devices and target {target!r} here {there}{more.get(target, '')}"
        )
    return client


def _compile_present(lowered: Any, target: str, lower_s: float) -> Compilation:
    """Compiles for a device of this process; the result can be called."""
    with tempfile.TemporaryDirectory(prefix="normbench-") as folder:
        dump = Path(folder) if target == "gpu" else None
        start = time.perf_counter()
        with _mosaic_dump(dump):
            executable = lowered.compile(compiler_options=_options(dump) or None)
        compile_s = time.perf_counter() - start
        module = executable.runtime_executable().hlo_modules()[0]
        return _read(module, executable.memory_analysis(), target, None, dump, lower_s, compile_s, executable)


def _read(
    hlo_module: Any,
    memory: Any,
    target: str,
    facts: Target | None,
    dump: Path | None,
    lower_s: float,
    compile_s: float,
    executable: Callable[..., Any] | None,
    partition: Partition = ONE,
) -> Compilation:
    start = time.perf_counter()
    on_tpu = facts is not None and facts.platform == TPU
    proto = hlo_module.as_serialized_hlo_module_proto()
    once = jax_compat.generic_cost_analysis(hlo_module)
    program = read_module(proto)
    cost = repeated_cost(proto, program, once, jax_compat.cost_analysis_of_proto)
    on_gpu = target != "cpu" and not on_tpu
    reading = read_program(program, dump, facts, cost.get("bytes accessed"), on_gpu, partition)
    reading = replace(reading, flops=_flops(reading, cost))
    canonical = jax_compat.canonical_text(hlo_module)
    return Compilation(
        target=target,
        hlo=proto,
        hlo_text=without_numbers(hlo_module.to_string()),
        hlo_sha256=hashlib.sha256(canonical.encode()).hexdigest(),
        peak_bytes=getattr(memory, "peak_memory_in_bytes", None)
        or (on_tpu and jax_compat.allotted_bytes(memory))
        or None,
        lower_s=lower_s,
        compile_s=compile_s,
        read_s=time.perf_counter() - start,
        reading=reading,
        executable=executable,
    )


def _flops(reading: Reading, cost: dict[str, float]) -> float | None:
    """Operations by XLA's generic analysis, and of calls, which the analysis does not know, those of their products.
    None where a call's are not known, or the analysis gives none."""
    calls = [launch.flops for launch in reading.launches if launch.instruction.opcode == "custom-call"]
    if None in calls or "flops" not in cost:
        return None
    return max(0.0, cost["flops"]) + sum(flops for flops in calls if flops is not None)
