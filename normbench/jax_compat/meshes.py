"""Meshes of devices that are not there, and for how many devices a lowered module is."""

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from normbench.jax_compat.parsing import parsing
from normbench.jax_compat.tpu_targets import absent_device

_MESH = re.compile(r"sdy\.mesh @\S+ = <\[(?P<axes>[^\]]*)\](?:, device_ids=\[(?P<ids>[\d, ]*)\])?>")
_AXIS = re.compile(r'"(?P<name>[^"]+)"=(?P<size>\d+)')
_ATTRIBUTE = "mhlo.num_partitions"


Mesh = tuple[int, tuple[tuple[str, int], ...], tuple[int, ...]]
"""Devices; name and size of each axis; and, where it is not counting, the device at each place."""
_ONE: Mesh = (1, (), ())


def absent_mesh(sizes: Sequence[int], names: Sequence[str], device_kind: str | None = None) -> Any:
    """A mesh of GPUs or TPUs that need not be there, as a `jax.sharding.AbstractMesh` of axes of type Auto.

    Args:
      device_kind: their name as the vendor spells it, which Pallas asks for; None where it does not matter.
    """
    device = None if device_kind is None else absent_device(device_kind)
    types = (jax.sharding.AxisType.Auto,) * len(names)
    return jax.sharding.AbstractMesh(tuple(sizes), tuple(names), axis_types=types, abstract_device=device)


def settle_devices(lowered: Any) -> int:
    """For how many devices a `Lowered` is, which from here on its module says itself.

    Of a mesh of absent devices JAX does not count those that only the inside of a program mentions.
    """
    from jaxlib.mlir import ir

    module = lowered.compiler_ir("stablehlo")
    devices = _partition(module)[0]
    with module.context:
        said = ir.IntegerAttr.get(ir.IntegerType.get_signless(32), devices)
        module.operation.attributes[_ATTRIBUTE] = said
    return devices


def mesh_of(bytecode: bytes) -> Mesh:
    """The mesh for which a StableHLO module is, from its bytecode; without axes where it names none."""
    from jaxlib.mlir import ir

    with parsing(bytecode):
        return _partition(ir.Module.parse(bytecode))


def _partition(module: Any) -> Mesh:
    attributes = module.operation.attributes
    said = int(attributes[_ATTRIBUTE]) if _ATTRIBUTE in attributes else 1
    meshes = [found for operation in module.body.operations if (found := _mesh(operation))]
    largest = max(meshes, key=lambda mesh: mesh[0], default=_ONE)
    return largest if largest[0] >= said else (said, (), ())


def _mesh(operation: Any) -> Mesh | None:
    if operation.operation.name != "sdy.mesh":
        return None
    match = _MESH.search(str(operation))
    if match is None:
        return None
    axes = tuple((axis["name"], int(axis["size"])) for axis in _AXIS.finditer(match["axes"]))
    order = tuple(int(number) for number in (match["ids"] or "").split(",") if number.strip())
    return math.prod(size for _, size in axes), axes, order


def unsharded_kernels(traced: Any) -> frozenset[str]:
    """Names of the Pallas kernels of a traced program that no `jax.shard_map` surrounds; none for a `Traced` of a
    framework's own that does not show its program."""
    return frozenset(_kernels(getattr(traced, "jaxpr", None)))


def _kernels(value: Any) -> Iterator[str]:
    value = getattr(value, "jaxpr", value)
    if isinstance(value, tuple | list):
        for part in value:
            yield from _kernels(part)
    for equation in getattr(value, "eqns", ()):
        if equation.primitive.name == "pallas_call" or "mosaic_gpu" in equation.primitive.name:
            yield _name(equation.params)
        elif equation.primitive.name != "shard_map":
            for parameter in equation.params.values():
                yield from _kernels(parameter)


def _name(parameters: dict[str, Any]) -> str:
    """pallas_call has `name`, or only the place of its function: "kernel at file:line"."""
    said = parameters.get("name") or parameters.get("name_and_src_info") or "a kernel"
    return str(said).split(" ")[0]
