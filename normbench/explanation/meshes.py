"""`mesh`: devices that need not be there, to shard the arguments of `explain` over."""

import math
from collections.abc import Sequence
from typing import Any

from normbench.errors import UserError
from normbench.fusion.targets import facts_of
from normbench.jax_compat.meshes import absent_mesh

MOST = 65536
"""Devices of a mesh; beyond it XLA's own lists of them take minutes."""


def mesh(devices: int | Sequence[int], axes: str | Sequence[str] = "devices", target: str = "h200") -> Any:
    """A mesh of devices that need not be there.

    >>> mesh = normbench.mesh(8, ("data", "model"), target="h200")  # 2 x 4
    >>> sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data", "model"))
    >>> normbench.explain(f, jax.ShapeDtypeStruct((8192, 4096), "bfloat16", sharding=sharding), target="h200")

    Args:
      devices: how many along each axis; or their number, which is then divided between the axes as evenly as it can be,
        the last one getting most.
      axes: their names.
      target: what they are.

    Returns a `jax.sharding.AbstractMesh`: it takes the place of a `Mesh` in shardings and in `jax.shard_map`; no array
    can be put onto it. Devices that follow each other share a machine, eight at a time.

    Raises:
      UserError: for a number below 1 or above 65536, axes that are none or of one name, and an unknown target.
    """
    names = (axes,) if isinstance(axes, str) else tuple(axes)
    if not names or len(set(names)) != len(names) or not all(isinstance(name, str) and name for name in names):
        raise UserError(f"axes is {axes!r}; allowed: names of axes, each once")
    sizes = _divided(devices, len(names)) if isinstance(devices, int) else tuple(devices)
    if len(sizes) != len(names):
        raise UserError(f"devices is {devices!r} and axes {axes!r}; allowed: as many sizes as axes")
    wrong = not all(isinstance(size, int) and not isinstance(size, bool) and size >= 1 for size in sizes)
    if wrong or isinstance(devices, bool) or math.prod(sizes) > MOST:
        raise UserError(f"devices is {devices!r}; allowed: 1 to {MOST} in all")
    facts = facts_of(target)
    return absent_mesh(sizes, names, facts.device_name if facts else None)


def _divided(devices: int, axes: int) -> tuple[int, ...]:
    """Factors in rising order, as near to each other as they can be: 8 is 2 x 4, 64 is 8 x 8."""
    if axes == 1 or devices < 1:
        return (devices,) + (1,) * (axes - 1)
    first = max(size for size in range(1, int(devices ** (1 / axes) + 1e-9) + 1) if devices % size == 0)
    return (first, *_divided(devices // first, axes - 1))
