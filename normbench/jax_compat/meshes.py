"""Meshes of devices that are not there, and for how many devices a lowered module is."""

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

DEVICES_PER_NODE = 8
"""Devices that share a machine, and with it the fast interconnect: those of a DGX or HGX board."""

_MESH = re.compile(r"sdy\.mesh @\S+ = <\[(?P<axes>[^\]]*)\](?:, device_ids=\[(?P<ids>[\d, ]*)\])?>")
_AXIS = re.compile(r'"(?P<name>[^"]+)"=(?P<size>\d+)')
_ATTRIBUTE = "mhlo.num_partitions"


@dataclass(frozen=True)
class Partition:
    """Over which devices a module is partitioned.

    Attributes:
      devices: how many.
      axes: (name, size) of each axis of its mesh; empty where it has none.
      order: the device at each place of the mesh, by its place in the order in which they were assigned; empty where
        that is counting.
    """

    devices: int = 1
    axes: tuple[tuple[str, int], ...] = ()
    order: tuple[int, ...] = ()

    def axes_of(self, groups: Sequence[Sequence[int]]) -> tuple[str, ...] | None:
        """The axes along which groups of devices lie, in the order of the mesh; None where they follow no axes."""
        wanted = {frozenset(group) for group in groups}
        names = [name for name, size in self.axes if size > 1]
        for count in range(len(names) + 1):
            for chosen in itertools.combinations(names, count):
                if {frozenset(group) for group in self._groups(chosen)} == wanted:
                    return chosen
        return None

    def _groups(self, chosen: Sequence[str]) -> list[list[int]]:
        sizes = [size for _, size in self.axes]
        places = np.asarray(self.order or range(self.devices)).reshape(sizes)
        inner = [place for place, (name, _) in enumerate(self.axes) if name in chosen]
        outer = [place for place in range(len(sizes)) if place not in inner]
        length = math.prod(sizes[place] for place in inner)
        return places.transpose(*outer, *inner).reshape(-1, length).tolist()


ONE = Partition()


def absent_mesh(sizes: Sequence[int], names: Sequence[str], device_kind: str | None = None) -> Any:
    """A mesh of CUDA devices that need not be there, as a `jax.sharding.AbstractMesh` of axes of type Auto.

    Args:
      device_kind: their name as the vendor spells it, which Pallas asks for; None where it does not matter.
    """
    device = None
    if device_kind is not None:
        device = jax.sharding.AbstractDevice(device_kind=device_kind, num_cores=None, platform="gpu")
    types = (jax.sharding.AxisType.Auto,) * len(names)
    return jax.sharding.AbstractMesh(tuple(sizes), tuple(names), axis_types=types, abstract_device=device)


def settle_partition(lowered: Any) -> Partition:
    """For how many devices a `Lowered` is, which from here on its module says itself.

    Of a mesh of absent devices JAX does not count those that only the inside of a program mentions.
    """
    from jaxlib.mlir import ir

    module = lowered.compiler_ir("stablehlo")
    found = _partition(module)
    with module.context:
        said = ir.IntegerAttr.get(ir.IntegerType.get_signless(32), found.devices)
        module.operation.attributes[_ATTRIBUTE] = said
    return found


def partition_of(bytecode: bytes) -> Partition:
    """For how many devices a StableHLO module is, from its bytecode."""
    from jax._src.interpreters import mlir
    from jaxlib.mlir import ir

    with mlir.make_ir_context():
        return _partition(ir.Module.parse(bytecode))


def _partition(module: Any) -> Partition:
    attributes = module.operation.attributes
    said = int(attributes[_ATTRIBUTE]) if _ATTRIBUTE in attributes else 1
    meshes = [found for operation in module.body.operations if (found := _mesh(operation))]
    largest = max(meshes, key=lambda mesh: mesh.devices, default=ONE)
    return largest if largest.devices >= said else Partition(said)


def _mesh(operation: Any) -> Partition | None:
    if operation.operation.name != "sdy.mesh":
        return None
    match = _MESH.search(str(operation))
    if match is None:
        return None
    axes = tuple((axis["name"], int(axis["size"])) for axis in _AXIS.finditer(match["axes"]))
    order = tuple(int(number) for number in (match["ids"] or "").split(",") if number.strip())
    return Partition(math.prod(size for _, size in axes), axes, order)


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
