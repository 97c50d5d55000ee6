"""Reshapes whose target is not a computed shape, which PyTensor's JAX backend cannot trace."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.gradient import DisconnectedType, disconnected_type
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.op import Op

from normbench.errors import UserError
from normbench.kernels.pytensor.conv.window import is_whole


class SplitGroups(Op):
    """(N, C, ...) to (N, groups, elements of a group); the channels of a group lie beside each other."""

    __props__ = ("groups",)
    view_map = {0: [0]}  # noqa: RUF012  as PyTensor declares it

    def __init__(self, groups: int):
        if not is_whole(groups, 1):
            raise UserError(f"groups {groups!r} is not allowed; allowed: a whole number, 1 or more")
        self.groups = int(groups)

    def make_node(self, x: Any) -> Apply:
        x = pt.as_tensor_variable(x)
        batch, channels, *spatial = x.type.shape
        if channels is not None:
            self.check(channels)
        sizes = (channels, *spatial)
        rest = None if None in sizes else int(np.prod(sizes)) // self.groups
        return Apply(self, [x], [pt.tensor(dtype=x.type.dtype, shape=(batch, self.groups, rest))])

    def perform(self, node: Apply, inputs: Sequence[np.ndarray], output_storage: list[list[Any]]) -> None:
        output_storage[0][0] = self.split(inputs[0])

    def split(self, x: Any) -> Any:
        """For an array of NumPy, JAX, PyTorch or MLX."""
        self.check(x.shape[1])
        rest = 1
        for size in x.shape[1:]:
            rest *= size
        return x.reshape((x.shape[0], self.groups, rest // self.groups))

    def check(self, channels: int) -> None:
        if channels % self.groups:
            raise UserError(f"x has {channels} channels with groups {self.groups}; allowed: a multiple of groups")

    def infer_shape(self, *args: Any) -> list[tuple]:
        batch, *sizes = args[-1][0]
        rest = sizes[0]
        for size in sizes[1:]:
            rest = rest * size
        return [(batch, self.groups, rest // self.groups)]

    def pullback(
        self, inputs: Sequence[Variable], outputs: Sequence[Variable], cotangents: Sequence[Variable]
    ) -> list[Variable]:
        return [ReshapeLike()(cotangents[0], inputs[0])]

    def pushforward(
        self, inputs: Sequence[Variable], outputs: Sequence[Variable], tangents: Sequence[Variable]
    ) -> list[Variable]:
        (tangent,) = tangents
        return [tangent if isinstance(tangent.type, DisconnectedType) else self(tangent)]


class ReshapeLike(Op):
    """Inputs: x, and what has the shape that x is to have; of the second only the shape is used."""

    __props__ = ()
    view_map = {0: [0]}  # noqa: RUF012  as PyTensor declares it

    def make_node(self, x: Any, like: Any) -> Apply:
        x, like = pt.as_tensor_variable(x), pt.as_tensor_variable(like)
        return Apply(self, [x, like], [pt.tensor(dtype=x.type.dtype, shape=like.type.shape)])

    def perform(self, node: Apply, inputs: Sequence[np.ndarray], output_storage: list[list[Any]]) -> None:
        x, like = inputs
        output_storage[0][0] = x.reshape(like.shape)

    def infer_shape(self, *args: Any) -> list[tuple]:
        return [args[-1][1]]

    def connection_pattern(self, node: Apply) -> list[list[bool]]:
        return [[True], [False]]

    def pullback(
        self, inputs: Sequence[Variable], outputs: Sequence[Variable], cotangents: Sequence[Variable]
    ) -> list[Variable]:
        return [ReshapeLike()(cotangents[0], inputs[0]), disconnected_type()]

    def pushforward(
        self, inputs: Sequence[Variable], outputs: Sequence[Variable], tangents: Sequence[Variable]
    ) -> list[Variable]:
        tangent = tangents[0]
        return [tangent if isinstance(tangent.type, DisconnectedType) else self(tangent, inputs[1])]
