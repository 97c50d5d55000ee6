"""The only way into JAX's private and unstable parts; what differs between JAX releases is settled here.

Importing this module does not initialise a backend.
"""

import contextlib
import io
import logging
import math
import re
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from normbench.jax_compat.embedded import without_source_lines
from normbench.jax_compat.meshes import absent_mesh, settle_devices
from normbench.jax_compat.parsing import parsing
from normbench.jax_compat.tpu_targets import absent_device

_FINGERPRINT = re.compile(r'fingerprint_before_lhs="\w*"')

# ---------------------------------------------------------------------------------------------------------------------
# Compiling for a device that is not there
# ---------------------------------------------------------------------------------------------------------------------


def jax_version() -> tuple[int, ...]:
    """The version of JAX as numbers, e.g. (0, 10, 2)."""
    return jax.__version_info__


def direct_call(compiled: Any) -> Callable[..., Any]:
    """What a compiled program calls within, which is C++, as a jitted function does; itself before its first call."""
    return getattr(compiled, "_call", None) or compiled


def deviceless_client(target_config: str, machines: int = 1, devices_each: int = 1) -> Any:
    """A client that compiles for CUDA devices described by `target_config`, a text `GpuTargetConfigProto`.

    The process must have been started with `JAX_PLATFORMS=cpu`: otherwise JAX looks for NVIDIA's libraries.

    Raises:
      ImportError: where the CUDA plugin is not installed, or does not fit this JAX.
    """
    from jax.experimental import topologies

    shape = f"1x{machines}x{devices_each}"
    try:
        topology = topologies.get_topology_desc(platform="cuda", target_config=target_config, topology=shape)
    except Exception as error:  # the plugin's absence shows as KeyError, RuntimeError or NotImplementedError
        raise ImportError(f"JAX has no compiler for CUDA devices here: {error}") from error
    device: Any = topology.devices[0]
    return device.client


@contextlib.contextmanager
def no_gpu_is_no_error() -> Iterator[None]:
    """Keeps JAX, where there is no NVIDIA device, from logging a traceback because the CUDA plugin finds no libraries.

    The plugin is there to compile; when JAX starts its backends it also asks it for devices.
    """
    logger = logging.getLogger("jax._src.xla_bridge")
    level = logger.level
    if not Path("/dev/nvidiactl").exists():
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def lower_for(function: Callable, inputs: tuple, platform: str, device_kind: str | None = None) -> Any:
    """Traces and lowers `function` for `platform` ("cpu", "cuda" or "tpu"); returns a `jax.stages.Lowered`.

    `device_kind` names the device where it is not there: from JAX 0.11 Pallas asks for it.
    """
    return lower_traced(*trace_call(function, inputs, {}, device_kind), platform)


def trace_call(function: Callable, inputs: tuple, keywords: dict[str, Any], device_kind: str | None) -> tuple[Any, Any]:
    """Traces `function(*inputs, **keywords)` as `jax.jit` does, or as it was jitted.

    Returns the `jax.stages.Traced` and the mesh to lower it with, which names the device: the one of absent devices
    over which arguments are sharded, or a mesh of one. None where the function, or who calls it, has a mesh of its own,
    which JAX takes for a contradiction.

    Raises:
      Exception: whatever tracing raises.
    """
    jitted = _jitted(function)
    if device_kind is None or not jax.sharding.get_abstract_mesh().empty:
        return jitted.trace(*inputs, **keywords), None
    mesh = _described_mesh((inputs, keywords), device_kind)
    try:
        with jax.sharding.use_abstract_mesh(mesh):
            lying, named = jax.tree.map(lambda leaf: _on_mesh(leaf, mesh), (inputs, keywords))
            return jitted.trace(*lying, **named), mesh
    except Exception as error:
        if "mesh" not in str(error):
            raise
    return jitted.trace(*inputs, **keywords), None


def lower_traced(traced: Any, mesh: Any, platform: str) -> Any:
    """Lowers what `trace_call` has returned; returns a `jax.stages.Lowered`."""
    with contextlib.nullcontext() if mesh is None else jax.sharding.use_abstract_mesh(mesh):
        return traced.lower(lowering_platforms=(platform,))


def _described_mesh(arguments: Any, device_kind: str) -> Any:
    """A mesh that says what its devices are."""
    for sharding in _shardings(arguments):
        if isinstance(sharding.mesh, jax.sharding.AbstractMesh) and sharding.mesh.size > 1:
            return absent_mesh(sharding.mesh.axis_sizes, sharding.mesh.axis_names, device_kind)
    return jax.sharding.AbstractMesh((1,), ("device",), abstract_device=absent_device(device_kind))


def _on_mesh(leaf: Any, mesh: Any) -> Any:
    """An abstract array over the same mesh, as far as it did not say what its devices are."""
    for sharding in _shardings(leaf):
        if isinstance(sharding.mesh, jax.sharding.AbstractMesh) and sharding.mesh.shape == mesh.shape:
            return leaf.update(sharding=jax.sharding.NamedSharding(mesh, sharding.spec))
    return leaf


def is_of_two_meshes(error: Exception) -> bool:
    """Whether JAX cannot lower because the mesh that names the device is not the one of the shardings."""
    words = ("should be of the same size across all shardings", "Received incompatible devices")
    return any(part in str(error) for part in words)


def is_without_device(error: Exception) -> bool:
    """Whether Pallas cannot lower because no mesh tells it for which device."""
    return "AbstractDevice" in str(error)


def devices_of(arguments: Any) -> int:
    """Devices of the largest mesh over which any array among the arguments is sharded; 1 for none."""
    return max((sharding.mesh.size for sharding in _shardings(arguments)), default=1)


def _shardings(arguments: Any) -> Iterator[jax.sharding.NamedSharding]:
    for leaf in jax.tree.leaves(arguments):
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, jax.sharding.NamedSharding):
            yield sharding


def _jitted(function: Callable) -> Any:
    return function if hasattr(function, "trace") else jax.jit(function)


def raised_in(call: Callable[[], Any]) -> str:
    """The name of the function of JAX's own that makes `call` fail; JAX hides its frames unless it is told not to."""
    before = jax.config.values["jax_traceback_filtering"]
    jax.config.update("jax_traceback_filtering", "off")
    try:
        call()
    except Exception as error:
        return [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)][-1]
    finally:
        jax.config.update("jax_traceback_filtering", before)
    return ""


def callbacks_of(traced: Any) -> frozenset[str]:
    """Names of the primitives of a traced program that call back into Python, those inside of loops, branches and calls
    included; none for a `Traced` of a framework's own that does not show its program."""
    found: set[str] = set()
    seen: set[int] = set()
    todo: list[Any] = [getattr(traced, "jaxpr", None)]
    while todo:
        value = todo.pop()
        value = getattr(value, "jaxpr", value)
        if isinstance(value, tuple | list):
            todo += value
        elif hasattr(value, "eqns") and id(value) not in seen:
            seen.add(id(value))
            for equation in value.eqns:
                found.add(equation.primitive.name)
                todo += equation.params.values()
    return frozenset(name for name in found if name == "debug_print" or name.endswith("_callback"))


def entry_bytes(lowered: Any) -> tuple[int, int]:
    """Bytes of the arguments and of the results of a `Lowered`; a result in the place of a donated argument counts
    with the argument alone."""
    module = lowered.compiler_ir("stablehlo")
    with module.context:
        functions = [one for one in module.body.operations if hasattr(one, "arg_attrs")]
        main = next(function for function in functions if function.name.value == "main")
        arguments, results = ([_tensor_bytes(one) for one in types] for types in (main.type.inputs, main.type.results))
        donated = sum(size for size, donor in zip(arguments, _donors(main), strict=True) if donor)
    return sum(arguments), max(0, sum(results) - donated)


def _donors(main: Any) -> list[bool]:
    names = ("tf.aliasing_output", "jax.buffer_donor")
    return [any(name in attributes for name in names) for attributes in main.arg_attrs]


_TENSOR = re.compile(r"tensor<(?P<sizes>(?:\d+x)*)(?P<complex>complex<)?[a-z]+(?P<bits>\d+)")


def _tensor_bytes(tensor_type: Any) -> int:
    """Bytes of an MLIR tensor type, e.g. tensor<8x4xf8E4M3FN>; 0 for what is no tensor."""
    match = _TENSOR.match(str(tensor_type))
    if match is None:
        return 0
    elements = math.prod(int(size) for size in match["sizes"].split("x") if size)
    return elements * max(8, int(match["bits"])) * (2 if match["complex"] else 1) // 8


def module_bytecode(lowered: Any) -> bytes:
    """The StableHLO module of a `Lowered` as MLIR bytecode, with source locations and its number of devices."""
    settle_devices(lowered)
    buffer = io.BytesIO()
    lowered.compiler_ir("stablehlo").operation.write_bytecode(buffer)
    return buffer.getvalue()


def module_text(bytecode: bytes) -> str:
    """A StableHLO module as text without source locations."""
    from jaxlib.mlir import ir

    if b"mosaic_gpu" in bytecode:
        import jax.experimental.mosaic.gpu  # noqa: F401  (the library that its kernels are printed with)

    with parsing(bytecode):
        return str(ir.Module.parse(bytecode).operation.get_asm(enable_debug_info=False))


def compile_bytecode(bytecode: bytes, client: Any, options: dict[str, Any], load: bool, partitions: int = 1) -> Any:
    """Compiles a StableHLO module with `client`; `options` are XLA's debug options by name.

    `load` is True for a client with real devices, of which there have to be as many as `partitions`. The result has
    `hlo_modules()` and `get_compiled_memory_stats()`.
    """
    from jax._src import compiler
    from jax._src.lib import _jax
    from jaxlib.mlir import ir

    if b"mosaic_gpu" in bytecode:  # a process that did not lower it has yet to load the library that it is linked with
        import jax.experimental.mosaic.gpu  # noqa: F401

    devices = _jax.DeviceList(tuple((client.local_devices() if load else client.devices())[:partitions]))
    compile_options = compiler.get_compile_options(
        num_replicas=1,
        num_partitions=partitions,
        device_assignment=np.array([[device.id for device in devices]]),
        env_options_overrides=options,
        backend=client,
    )
    if partitions > 1:
        compile_options.executable_build_options.use_spmd_partitioning = True
        compile_options.executable_build_options.use_shardy_partitioner = True
    with parsing(bytecode):
        module = ir.Module.parse(bytecode)
        compile_module = client.compile_and_load if load else client.compile
        return compile_module(module, devices, compile_options)


def allotted_bytes(memory: Any) -> int | None:
    """Bytes of device memory that a program is given, inputs and outputs included, of what `get_compiled_memory_stats`
    has told, where the compiler names no peak. None where it tells nothing."""
    parts = ("argument_size_in_bytes", "output_size_in_bytes", "temp_size_in_bytes")
    return sum(getattr(memory, name, 0) for name in parts) - getattr(memory, "alias_size_in_bytes", 0) or None


def emitter_dump_options() -> dict[str, Any]:
    """The debug options that make XLA write its PTX, and no more, into the dump.

    From JAX 0.11 it writes none unasked; asked for all, it also writes every stage of every Triton kernel, 10 MB in
    several seconds.
    """
    return {"xla_dump_emitter_re": "ptx"}


def generic_cost_analysis(hlo_module: Any) -> dict[str, float]:
    """XLA's generic cost analysis of an optimised module: "flops", "bytes accessed", ..."""
    from jax._src.lib import _jax

    return _jax.hlo_module_cost_analysis(jax.devices("cpu")[0].client, hlo_module)


def cost_analysis_of_proto(hlo_module_proto: bytes) -> dict[str, float]:
    """XLA's generic cost analysis of a serialized HloModuleProto."""
    from jax._src.lib import xla_client

    return generic_cost_analysis(xla_client.hlo.HloModule.from_serialized_hlo_module_proto(hlo_module_proto))


def canonical_text(hlo_module: Any) -> str:
    """An HLO module as text in which names, metadata and source lines do not count: equal for equal programs.

    XLA stores its own fingerprint from before scheduling among the attributes, for which source lines count: it goes.
    """
    from jax._src.lib import xla_client

    text = hlo_module.to_string(xla_client.hlo.HloPrintOptions.fingerprint())
    return without_source_lines(_FINGERPRINT.sub('fingerprint_before_lhs=""', text))


def local_client(platform: str) -> Any:
    """The client of the CPU or the GPU of this process; `platform` is "cpu" or "gpu".

    Raises:
      RuntimeError: where there is no such device.
    """
    return jax.devices(platform)[0].client
