"""Drawn calls of `kernels.aten` against PyTorch: the output, the gradients, and the gradients of these.

A judge needs to know who is right where two differ: what is true is the same function in float64, at the same values
(of float64 itself, PyTorch's answer). What two correct roundings allow is measured, not assumed: how far what is true
moves when the inputs move by one unit of the computation's precision, and a few roundings of the result.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from normbench.kernels import aten
from tests.kernels.aten.agreement import compute_dtype, epsilon, from_wire, to_wire
from tests.kernels.aten.torch_judge import Request, TorchJudge

DTYPES = ("float32", "float64", "bfloat16", "float16")
KINDS = ("ordinary", "far", "small", "large", "outlier", "mixed scales")


@dataclass(frozen=True)
class Call:
    """One function with everything static: `arguments` has the places of x, weight, bias and statistics by name."""

    name: str
    torch: str
    ours: Callable[..., Any]
    arguments: tuple[Any, ...]
    shape: tuple[int, ...]
    parameters: tuple[int, ...]
    dtype: str

    @property
    def differentiated(self) -> tuple[str, ...]:
        return tuple(n for n in ("x", "weight", "bias") if n in self.arguments)

    def arrays(self, rng: np.random.Generator, kind: str) -> dict[str, np.ndarray]:
        shapes = {"x": self.shape, "mean": self.parameters, "var": self.parameters}
        values = {}
        for name in {a for a in self.arguments if isinstance(a, str)}:
            value = rng.normal(size=shapes.get(name, self.parameters))
            values[name] = rng.uniform(0.3, 2, value.shape) if name == "var" else value
        values["x"] = _x(values["x"], rng, kind, self.dtype)
        return {name: value.astype(jnp.dtype(self.dtype)) for name, value in values.items()}


def _x(normal: np.ndarray, rng: np.random.Generator, kind: str, dtype: str) -> np.ndarray:
    half = dtype in ("float16", "bfloat16")
    if kind == "far":
        return normal + (30 if half else 2000)
    if kind == "small":
        return normal * (1e-2 if half else 1e-4)
    if kind == "large":
        return normal * (100 if half else 1e6)
    if kind == "outlier":
        normal.flat[rng.integers(normal.size)] = 300
    if kind == "mixed scales":
        return normal * 10.0 ** rng.uniform(-1, 1, (*normal.shape[:2], *(1,) * (normal.ndim - 2)))
    return normal


def calls() -> list[Call]:
    """Every normalization, in four dtypes, with and without weight and bias, in two shapes.

    No group has two terms: their h is 1 and -1 but for epsilon, and the gradient what rounding leaves of a difference.
    """
    found = []
    for dtype in DTYPES:
        for affine in (True, False):
            weight, bias = ("weight", "bias") if affine else (None, None)
            for shape, eps in (((3, 5, 8), 1e-5), ((4, 9), 1e-3)):
                rows, channels = shape[-1:], shape[1:2]
                one = partial(Call, shape=shape, dtype=dtype)
                found += [
                    one("layer_norm", "torch:layer_norm", aten.layer_norm, ("x", rows, weight, bias, eps),
                        parameters=rows),
                    one("rms_norm", "torch:rms_norm", aten.rms_norm, ("x", rows, weight, eps), parameters=rows),
                    one("group_norm", "torch:group_norm", aten.group_norm,
                        ("x", 1 if shape[1] == 5 else 3, weight, bias, eps), parameters=channels),
                    *(one(f"batch_norm training={training}", "torch:batch_norm", aten.batch_norm,
                          ("x", weight, bias, "mean", "var", training, 0.1, eps, False), parameters=channels)
                      for training in (True, False)),
                ]  # fmt: skip
                if len(shape) > 2:
                    found += [
                        one("instance_norm", "torch:instance_norm", aten.instance_norm,
                            ("x", weight, bias, None, None, True, 0.1, eps, False), parameters=channels),
                        one("local_response_norm", "torch.nn.functional:local_response_norm",
                            aten.local_response_norm, ("x", 3, 0.5, 0.75, 1.5), parameters=channels),
                    ]  # fmt: skip
    return found


@cache
def program(call: Call) -> Callable[..., tuple]:
    """(arrays, dy, tangents) -> outputs of each order; jitted, for any dtype."""

    def evaluated(arrays, dy, tangents):
        wanted = call.differentiated

        def y_of(differentiated):
            all_arrays = arrays | differentiated
            return call.ours(*(all_arrays[a] if isinstance(a, str) else a for a in call.arguments))

        def gradients(differentiated, dy):
            return jax.vjp(y_of, differentiated)[1](dy)[0]

        differentiated = {name: arrays[name] for name in wanted}
        first, pull = jax.vjp(gradients, differentiated, dy)
        second, of_dy = pull(dict(zip(wanted, tangents, strict=True)))
        return y_of(differentiated), [first[n] for n in wanted], [*(second[n] for n in wanted), of_dy]

    return jax.jit(evaluated)


ROUNDS_BETWEEN = {
    "layer_norm": (1, 2),
    "group_norm": (1, 2),
    "batch_norm training=True": (0, 1, 2),
    "batch_norm training=False": (2,),
    "instance_norm": (0, 1, 2),
    "local_response_norm": (0, 1, 2),
}
"""By function, the orders in which PyTorch's answer in half precision is further from what is true than roundings of
float32 and one of the result allow: docs/aten.md."""


@dataclass
class Finding:
    """One array on which someone errs by `error` times what is allowed."""

    call: Call
    kind: str
    order: int
    of: str
    ours: float
    torch: float

    @property
    def is_documented(self) -> bool:
        """Whether it is PyTorch alone that errs, where docs/aten.md says so."""
        half = self.call.dtype in ("float16", "bfloat16")
        return half and self.ours <= 1 and self.order in ROUNDS_BETWEEN.get(self.call.name, ())

    def __str__(self) -> str:
        return (
            f"{self.call.name} {self.call.dtype} {self.call.shape} affine={'weight' in self.call.arguments} "
            f"{self.kind}: order {self.order} of {self.of}: "
            f"ours {self.ours:.2f}, PyTorch {self.torch:.2f} of what is allowed"
        )


def judged(judge: TorchJudge, call: Call, kind: str, seed: int) -> list[Finding]:
    """The errors of ours and of PyTorch's answers beyond what two correct roundings allow."""
    rng = np.random.default_rng(seed)
    arrays = call.arrays(rng, kind)
    dy, *tangents = (
        rng.normal(size=shape).astype(jnp.dtype(call.dtype))
        for shape in (call.shape, *(arrays[name].shape for name in call.differentiated))
    )
    wires = tuple(
        to_wire(arrays[a], requires_grad=a in call.differentiated) if isinstance(a, str) else a for a in call.arguments
    )
    verdict = judge.ask(Request(call.torch, wires, to_wire(dy), (), tuple(map(to_wire, tangents))))
    assert verdict.error is None, f"{call}: PyTorch: {verdict.error}: {verdict.message}"
    theirs = [from_wire(t) for t in (verdict.outputs[0], *verdict.gradients, *verdict.seconds)]
    ours = jax.tree.leaves(program(call)(arrays, dy, tangents))
    right, allowed = truth(call, arrays, dy, tangents, rng)
    if call.dtype == "float64":
        right = [np.zeros_like(t) if other is None else other for t, other in zip(right, theirs, strict=True)]
    names = ["y", *call.differentiated, *call.differentiated, "dy"]
    orders = [0, *(1,) * len(tangents), *(2,) * (len(tangents) + 1)]
    found = []
    for order, name, mine, other, exact, most in zip(orders, names, ours, theirs, right, allowed, strict=True):
        other = np.zeros(exact.shape) if other is None else other  # no path from it: PyTorch's None is a zero
        assert mine.shape == other.shape, (call, name)
        shares = [_share(value, exact, most) for value in (mine, other)]
        if max(shares) > 1:
            found.append(Finding(call, kind, order, name, *shares))
    return found


def _share(value: Any, exact: np.ndarray, allowed: np.ndarray) -> float:
    value = np.asarray(value, np.float64)
    same = (value == exact) | (np.isnan(value) & np.isnan(exact))
    return float(np.max(np.where(same, 0, np.abs(value - exact)) / allowed, initial=0))


def truth(call: Call, arrays: dict, dy: np.ndarray, tangents: list, rng: np.random.Generator) -> tuple[list, list]:
    """What is right in float64, and how far from it a correct answer may be."""
    unit, rounding = epsilon(compute_dtype(call.dtype)), epsilon(call.dtype)
    inputs = jax.tree.map(lambda a: np.asarray(a, np.float64), (arrays, dy, tangents))
    right = [np.asarray(leaf) for leaf in jax.tree.leaves(program(call)(*inputs))]
    moved = [np.zeros_like(leaf) for leaf in right]
    for _ in range(4):
        near = jax.tree.map(lambda a: a * (1 + unit * rng.choice([-1.0, 1.0], a.shape)), inputs)
        for index, leaf in enumerate(jax.tree.leaves(program(call)(*near))):
            moved[index] = np.maximum(moved[index], np.abs(np.asarray(leaf) - right[index]))
    tiny = float(jnp.finfo(call.dtype).smallest_subnormal)
    allowed = []
    for leaf, move in zip(right, moved, strict=True):
        largest = np.max(np.abs(leaf), initial=0)
        allowed.append(
            8 * np.max(move, initial=0) + 16 * unit * largest + rounding * (np.abs(leaf) + largest) + 4 * tiny
        )
    return right, allowed
