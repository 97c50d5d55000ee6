"""Operators whose arrays are divided between devices: contexts of sharding, and how each divides which array.

| context        | x is divided           | gamma, beta | running statistics | y                              |
|----------------|------------------------|-------------|--------------------|--------------------------------|
| batch8, batch64| along its first axis   | whole       | whole              | as x                           |
| hidden8        | along its last axis    | as x        |                    | as x                           |
| sequence8      | along its last but one | whole       |                    | whole: gathered for what comes |
| channels4      | along its channels     | as x        |                    | as x                           |

The statistics of batch and hidden are spread over the devices; those of sequence and channels lie on one each. In the
context "sequence8" the cotangent is whole, too, so that a device takes its part of it without a transfer; where it
comes as partial sums from a matrix product that is divided, as many bytes as the gather's are scattered.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from normbench.errors import UserError
from normbench.jax_compat.meshes import absent_mesh
from normbench.kernels.problem import Problem

AXIS = "devices"
"""The one axis of the mesh."""
WHOLE = PartitionSpec()

SHARDINGS = {
    "batch8": ("batch", 8),
    "batch64": ("batch", 64),
    "hidden8": ("hidden", 8),
    "sequence8": ("sequence", 8),
    "channels4": ("channels", 4),
}
"""What is divided between how many devices, by context."""
BY_OPERATOR = {
    "batch_norm_training": ("batch8", "batch64"),
    "layer_norm": ("hidden8", "sequence8"),
    "rms_norm": ("hidden8", "sequence8"),
    "group_norm": ("channels4",),
}
SPREAD = ("batch", "hidden")
"""Divisions that spread the terms of a mean over devices."""
_WITH_PARAMETERS = ("hidden", "channels")


@dataclass(frozen=True)
class Division:
    """How the arrays of a problem are divided.

    Attributes:
      what: batch, hidden, sequence or channels.
      devices: between how many.
      axis: of x, counted from 0.
      x, parameters, y: how x, the parameters and y lie on the mesh.
    """

    what: str
    devices: int
    axis: int
    x: PartitionSpec
    parameters: PartitionSpec
    y: PartitionSpec

    @property
    def mesh(self) -> Any:
        """The mesh of whoever traces, where it has the axis; else one of devices that need not be there."""
        around = jax.sharding.get_abstract_mesh()
        return around if AXIS in around.axis_names else absent_mesh((self.devices,), (AXIS,))

    def on(self, spec: PartitionSpec) -> NamedSharding:
        return NamedSharding(self.mesh, spec)

    def map(self, function: Callable, arguments: Sequence[Any], results: Any) -> Callable:
        """`function` of the part of each device; results that are said to be whole have to be the same on all."""
        return jax.shard_map(function, mesh=self.mesh, in_specs=tuple(arguments), out_specs=results, check_vma=False)


def division_of(problem: Problem) -> Division | None:
    """How a problem is divided; None where its context is no sharding."""
    if problem.context not in SHARDINGS:
        return None
    what, devices = SHARDINGS[problem.context]
    rank = len(problem.shape)
    axis = {"batch": 0, "hidden": rank - 1, "sequence": rank - 2, "channels": problem.channel_axis}[what]
    cut = PartitionSpec(*(AXIS if place == axis else None for place in range(rank)))
    parameters = PartitionSpec(AXIS) if what in _WITH_PARAMETERS else WHOLE
    return Division(what, devices, axis, cut, parameters, WHOLE if what == "sequence" else cut)


def check_division(problem: Problem) -> None:
    """Raises UserError where a problem's context is a sharding that does not divide its x, or leaves a group cut."""
    division = division_of(problem)
    if division is None:
        return
    if division.axis < 0:
        raise UserError(f"context {problem.context!r} divides the rows of x; shape {problem.shape} has none")
    size, devices = problem.shape[division.axis], division.devices
    if size % devices:
        raise UserError(
            f"context {problem.context!r} divides axis {division.axis} of x between {devices} devices; shape "
            f"{problem.shape} has {size} elements along it, which is no multiple"
        )
    if division.what == "hidden" and problem.option("ndim", 1) != 1:
        raise UserError(f"context {problem.context!r} divides the one normalized axis; allowed: option ndim=1")
    if division.what == "channels" and problem.option("groups", 32) % devices:
        raise UserError(
            f"context {problem.context!r} gives each of {devices} devices whole groups; groups is "
            f"{problem.option('groups', 32)}, which is no multiple"
        )
    if problem.pass_ == "backward":
        raise UserError(
            f"context {problem.context!r} is studied forward and forward_backward; what a forward pass saves has no "
            "sharding of its own"
        )


def part_of(problem: Problem) -> Problem:
    """The problem that one device has, of one whose statistics are not spread."""
    division = division_of(problem)
    assert division is not None
    shape = tuple(size // (division.devices if axis == division.axis else 1) for axis, size in enumerate(problem.shape))
    options = dict(problem.options)
    if division.what == "channels":
        options["groups"] = problem.option("groups", 32) // division.devices
    return replace(problem, shape=shape, context="alone", options=tuple(sorted(options.items())))


def specs_of(division: Division, roles: Sequence[str]) -> list[PartitionSpec]:
    """How the arguments of an operator lie on the mesh, by their roles."""
    parameters = {"scale": division.parameters, "shift": division.parameters}
    return [division.x if role == "activation" else parameters.get(role, WHOLE) for role in roles]
