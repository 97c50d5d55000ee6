"""What JAX tracks inside `jax.shard_map`: over which axes of the mesh an array differs from device to device."""

from typing import Any

import jax


def alike(arrays: Any, of: Any = None) -> Any:
    """Returns the arrays as varying over every axis of the mesh that one of them, or of those in `of`, varies over.

    Arrays of one kernel have to be: JAX does not know what a kernel, or a gradient by hand, makes of them. The gradient
    of what did not vary is then the sum over the devices. Outside of `jax.shard_map` nothing is done.
    """
    axes = frozenset().union(*map(_axes, jax.tree.leaves((arrays, of))))
    return jax.tree.map(lambda array: _varying(array, axes - _axes(array)), arrays)


def result_like(out: Any, arrays: Any) -> Any:
    """Abstract results of a kernel as varying over the axes that its inputs, made `alike`, vary over."""
    inputs = jax.tree.leaves(arrays)
    if not inputs or not _axes(inputs[0]):
        return out
    kind = jax.typeof(inputs[0]).manual_axis_type
    return jax.tree.map(lambda one: jax.ShapeDtypeStruct(one.shape, one.dtype, manual_axis_type=kind), out)


def _axes(array: jax.Array) -> frozenset:
    return jax.typeof(array).manual_axis_type.varying


def _varying(array: jax.Array, axes: frozenset) -> jax.Array:
    return jax.lax.pcast(array, tuple(sorted(axes)), to="varying") if axes else array
