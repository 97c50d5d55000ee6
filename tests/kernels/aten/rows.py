"""Drawn arguments of a normalization over rows (layer, RMS, group, instance norm), with the scales of its errors."""

import math

import numpy as np
from hypothesis import strategies as st

from tests.kernels.aten.agreement import Question, Scale
from tests.kernels.aten.drawn import EPSILONS, SEEDS, Data, dtypes, largest, wide


class RowCase:
    """x of `shape` whose rows lie along `axes`; weight and bias of `parameter_shape`, each present or absent."""

    def __init__(self, draw, shape, axes, parameter_shape, centred: bool = True):
        self.dtypes, self.eps, data = draw(dtypes()), draw(EPSILONS), Data(draw(SEEDS))
        self.shape, self.axes = shape, tuple(axes)
        self.x = data.normal(shape, self.dtypes.x, spread=1.5, offset=0.7)
        self.dy = data.normal(shape, self.dtypes.x)
        self.weight = data.normal(parameter_shape, self.dtypes.parameters) if draw(st.booleans()) else None
        self.bias = data.normal(parameter_shape, self.dtypes.parameters) if draw(st.booleans()) else None
        self.channels_last = draw(st.booleans())
        self.data = data
        self.length = math.prod(shape[a] for a in self.axes)
        self.rows = self.x.size // max(1, math.prod(parameter_shape))
        x = wide(self.x)
        self.mean = np.mean(x, self.axes, keepdims=True)
        spread = np.mean((x - self.mean) ** 2 if centred else x**2, self.axes, keepdims=True)
        self.rstd = 1 / np.sqrt(spread + self.eps)
        self.condition = 1 + 2 * largest(self.x) * float(self.rstd.max())

    @property
    def saved(self) -> str:
        present = [str(v.dtype) for v in (self.weight, self.bias) if v is not None]
        return present[0] if present else self.dtypes.x

    def scale(self, value: float, length: int | None = None) -> Scale:
        return Scale(value, self.condition, self.length if length is None else length)

    @property
    def output_scales(self):
        """y, mean, rstd."""
        y = largest(self.weight) + (0 if self.bias is None else largest(self.bias))
        return self.scale(y), self.scale(largest(self.x)), self.scale(float(self.rstd.max()))

    @property
    def gradient_scales(self):
        """dx, dweight, dbias."""
        dy = largest(self.dy)
        dx = dy * largest(self.weight) * float(self.rstd.max())
        return self.scale(dx), self.scale(self.rows * dy, self.rows), self.scale(self.rows * dy, self.rows)

    def question(self, torch, ours, arguments, scales, differentiated, **keywords) -> Question:
        """`differentiated` are the positions of x, weight and (where there is one) bias among the arguments."""
        values = (self.x, self.weight, self.bias)[: len(differentiated)]
        present = zip(values, self.gradient_scales, strict=False)
        return Question(
            torch,
            ours,
            arguments,
            tuple(scales),
            self.saved,
            cotangent=self.dy,
            differentiated=differentiated,
            gradient_scales=tuple(scale for value, scale in present if value is not None),
            channels_last=self.channels_last,
            **keywords,
        )
