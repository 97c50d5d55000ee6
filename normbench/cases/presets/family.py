"""A table of layers, and the presets that are made of it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import cycle, product

from normbench.kernels.contexts import CONTEXTS
from normbench.kernels.problem import DTYPES, Problem

Entry = tuple[Problem, str]
_GRADIENTS = ("backward", "forward_backward")


@dataclass(frozen=True, slots=True)
class Layer:
    """x of one layer of a model, and where it comes from."""

    shape: tuple[int, ...]
    layout: str
    provenance: str
    epsilon: float = 1e-5
    context: str = "alone"
    options: tuple[tuple[str, int | float | str], ...] = ()


@dataclass(frozen=True, slots=True)
class Family:
    """The problems of one operator.

    Attributes:
      operator: its name.
      smoke, quick: layers and their dtypes; `quick` are forward passes, and the gradient of its first layer.
      layers: of the models; all are in `standard` and `exhaustive`.
      trained: layers of which the gradients and the contexts are studied too.
      odd: sizes off any alignment, and beyond a limit of the compiler.
      surrounded: layers whose context is more than an activation, and a pass; in `standard` and `exhaustive`, in
        bfloat16.
      contexts: those in which `exhaustive` studies the trained layers.
    """

    operator: str
    smoke_layers: tuple[tuple[Layer, str], ...]
    quick_layers: tuple[tuple[Layer, str], ...]
    layers: tuple[Layer, ...]
    trained: tuple[Layer, ...]
    odd: tuple[Layer, ...]
    surrounded: tuple[tuple[Layer, str], ...] = ()
    contexts: tuple[str, ...] = CONTEXTS

    def smoke(self) -> Iterator[Entry]:
        for layer, dtype in self.smoke_layers:
            yield self._problem(layer, dtype)

    def quick(self) -> Iterator[Entry]:
        for layer, dtype in self.quick_layers:
            yield self._problem(layer, dtype)
        yield self._problem(*self.quick_layers[0], "forward_backward")

    def standard(self) -> Iterator[Entry]:
        """Each layer once, in turn over dtype; the trained ones with gradients; odd sizes in bfloat16."""
        for layer, dtype in zip(self.layers, cycle(("bfloat16", "float32")), strict=False):
            yield self._problem(layer, dtype)
        for layer, pass_ in product(self.trained, ("forward", *_GRADIENTS)):
            yield self._problem(layer, "bfloat16", pass_)
        for layer in self.odd[::3]:
            yield self._problem(layer, "bfloat16")
        yield from self._in_context()

    def exhaustive(self) -> Iterator[Entry]:
        for layer, dtype in product(self.layers, DTYPES):
            yield self._problem(layer, dtype)
        for layer, dtype, pass_, context in product(self.trained, DTYPES, ("forward", *_GRADIENTS), self.contexts):
            problem, provenance = self._problem(layer, dtype, pass_)
            yield replace(problem, context=context), provenance
        for layer, param_dtype in product(self.trained, ("bfloat16", "float16")):
            problem, provenance = self._problem(layer, param_dtype)
            yield replace(problem, param_dtype=param_dtype), provenance
        for layer, dtype in product(self.odd, ("bfloat16", "float32")):
            yield self._problem(layer, dtype)
        yield from self._in_context()

    def _in_context(self) -> Iterator[Entry]:
        for layer, pass_ in self.surrounded:
            yield self._problem(layer, "bfloat16", pass_)

    def _problem(self, layer: Layer, dtype: str, pass_: str = "forward") -> Entry:
        problem = Problem(
            self.operator,
            layer.shape,
            layer.layout,
            dtype,
            pass_=pass_,
            context=layer.context,
            epsilon=layer.epsilon,
            options=layer.options,
        )
        return problem, layer.provenance


OFFSETS = (-16, -8, -4, -2, -1, 1, 2, 4, 8, 16)


def off_by(offset: int, what: str) -> str:
    """The provenance of a size that is off by some, e.g. "off-alignment: rows of 4096 minus 1"."""
    return f"off-alignment: {what} {'minus' if offset < 0 else 'plus'} {abs(offset)}"
