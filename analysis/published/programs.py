"""The program that reproduces the configuration of a published time, and its compilation for the device.

Plain JAX where XLA's own code was measured; else a Pallas Triton form of the published kernel.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp

from analysis.published.block_kernels import Blocks, blocks_forward, blocks_vjp
from analysis.published.eager import eager_rms_norm
from analysis.published.row_kernels import Rows, group_loops, row_forward, softmax_row, two_pass_row
from analysis.published.rows import FOLDER, Published
from normbench.fusion.compilation import Compilation, compile_bytecode_for, lower_with_text
from normbench.fusion.targets import Target, deviceless_target, target_from_config

EPSILON = 1e-6


@dataclass(frozen=True)
class Program:
    """A function and what it is compiled for.

    Attributes:
      function: jittable, of arrays.
      inputs: their shapes and dtypes.
      likeness: how near it is to what was measured, in words.
    """

    function: Callable[..., Any]
    inputs: tuple[jax.ShapeDtypeStruct, ...]
    likeness: str


THE_SAME = "the same program"
SAME_KERNEL = "the same kernel, written anew"
SAME_PLAN = "a kernel of the same grid, threads and passes"
SAME_LAUNCHES = "the same launches, by kernels of XLA"


def program(row: Published) -> Program:
    """The program of a row."""
    return _FORMS[row.form](row)


def device_facts(device: str) -> Target:
    """The facts of one of DEVICES."""
    if device == "a100_40gb":
        return target_from_config(device, (FOLDER / "a100_40gb.txtpb").read_text(encoding="utf-8"))
    return deviceless_target(device)


@cache
def compiled(row_form: "Form") -> Compilation:
    """Compiles a program for its device, which need not be there."""
    target = device_facts(row_form.device)
    made = program(row_form.row)
    bytecode, _ = lower_with_text(made.function, made.inputs, target)
    return compile_bytecode_for(bytecode, target, 0.0)


@dataclass(frozen=True)
class Form:
    """What decides the program of a row; rows that differ in their times alone are compiled once."""

    device: str
    key: tuple[Any, ...]
    row: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Form) and (self.device, self.key) == (other.device, other.key)

    def __hash__(self) -> int:
        return hash((self.device, self.key))


def form_of(row: Published) -> Form:
    """The form of a row."""
    key = (row.operator, row.form, row.shape, row.axis, row.dtype, row.parameter_dtype, repr(row.settings))
    return Form(row.device, key, row)


def layer_norm(x, scale, offset, axis: int, residuals: bool = False):
    """tokamax's layer norm in plain JAX: y, or y, mean and 1/deviation; float32 inside."""
    y = x.astype(jnp.float32)
    mean = jnp.mean(y, axis, keepdims=True)
    y = y - mean
    deviation = jax.lax.rsqrt(jnp.mean(jnp.square(y), axis, keepdims=True) + EPSILON)
    y = y * deviation * _along(scale, x.ndim, axis) + _along(offset, x.ndim, axis)
    y = y.astype(x.dtype)
    return (y, mean, deviation) if residuals else y


def _along(parameter, rank: int, axis: int):
    axis = axis % rank
    return jnp.expand_dims(parameter.astype(jnp.float32), [other for other in range(rank) if other != axis])


def _layer_norm_vjp(x, dy, scale, mean, deviation, axis: int):
    """tokamax's gradient by hand in plain JAX: dx, dscale, doffset."""
    others = [other for other in range(x.ndim) if other != axis % x.ndim]
    dy = dy.astype(jnp.float32)
    h = (x.astype(jnp.float32) - mean) * deviation
    doffset, dscale = jnp.sum(dy, others), jnp.sum(dy * h, others)
    dh = dy * _along(scale, x.ndim, axis)
    dx = dh - jnp.mean(dh * h, axis=axis, keepdims=True) * h - jnp.mean(dh, axis=axis, keepdims=True)
    return (dx * deviation).astype(x.dtype), dscale.astype(scale.dtype), doffset.astype(scale.dtype)


def _forward_and_vjp(x, scale, offset, axis: int):
    """y, and the gradients with y itself as the cotangent, with nothing fused across between the two."""
    y, vjp = jax.vjp(partial(layer_norm, axis=axis), x, scale, offset)
    y = jax.lax.optimization_barrier(y)
    return y, vjp(y)


def _tensors(row: Published) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """x, a parameter, a statistic."""
    axis = row.axis % len(row.shape)
    kept = tuple(1 if i == axis else size for i, size in enumerate(row.shape))
    return (jax.ShapeDtypeStruct(row.shape, row.dtype),
            jax.ShapeDtypeStruct((row.shape[axis],), row.parameter_dtype),
            jax.ShapeDtypeStruct(kept, "float32"))  # fmt: skip


def _xla_forward(row: Published) -> Program:
    x, parameter, _ = _tensors(row)
    function = partial(layer_norm, axis=row.axis, residuals=row.settings["residuals"])
    return Program(function, (x, parameter, parameter), THE_SAME)


def _xla_vjp(row: Published) -> Program:
    x, parameter, statistic = _tensors(row)
    return Program(partial(_layer_norm_vjp, axis=row.axis), (x, x, parameter, statistic, statistic), THE_SAME)


def _xla_forward_vjp(row: Published) -> Program:
    x, parameter, _ = _tensors(row)
    return Program(partial(_forward_and_vjp, axis=row.axis), (x, parameter, parameter), THE_SAME)


def _blocks(row: Published, settings: dict[str, Any]) -> Blocks:
    axis = row.axis % len(row.shape)
    outer, inner = math.prod(row.shape[:axis]), math.prod(row.shape[axis + 1 :])
    return Blocks(outer, row.shape[axis], inner, row.dtype, row.parameter_dtype, settings["block_m"],
                  settings["block_n"] or 1, settings["num_warps"])  # fmt: skip


def _blocks_forward(row: Published) -> Program:
    plan = _blocks(row, row.settings)
    inputs = (plan.x, plan.parameter, plan.parameter)
    return Program(blocks_forward(plan, row.settings["residuals"]), inputs, SAME_KERNEL)


def _blocks_vjp(row: Published) -> Program:
    plan = _blocks(row, row.settings)
    return Program(blocks_vjp(plan), (plan.x, plan.x, plan.parameter, plan.statistic, plan.statistic), SAME_KERNEL)


def _blocks_forward_vjp(row: Published) -> Program:
    plan = _blocks(row, row.settings["forward"])
    forward, backward = blocks_forward(plan, True), blocks_vjp(_blocks(row, row.settings["backward"]))

    def both(x, scale, offset):
        y, mean, deviation = forward(x, scale, offset)
        return y, backward(x, y, scale, mean, deviation)

    return Program(both, (plan.x, plan.parameter, plan.parameter), SAME_KERNEL)


def _rows(row: Published) -> Rows:
    settings = row.settings
    return Rows(math.prod(row.shape[:-1]), row.shape[-1], row.dtype, row.parameter_dtype, settings["centred"],
                settings["statistics"], settings.get("residual", False), settings.get("llama", False))  # fmt: skip


def _row_forward(row: Published) -> Program:
    plan = _rows(row)
    likeness = SAME_KERNEL if row.family.endswith("_triton") else SAME_PLAN
    return Program(row_forward(plan, row.settings["num_warps"]), plan.inputs(), likeness)


def _two_pass_row(row: Published) -> Program:
    plan = _rows(row)
    return Program(two_pass_row(plan, row.settings["threads"], row.settings["vector"]), plan.inputs(), SAME_PLAN)


def _group_loops(row: Published) -> Program:
    settings = row.settings
    function, inputs = group_loops(row.shape, row.dtype, settings["channels_per_group"], settings["block"],
                                   settings["num_warps"])  # fmt: skip
    return Program(function, inputs, SAME_KERNEL)


def _softmax_row(row: Published) -> Program:
    *outer, columns = row.shape
    function, inputs = softmax_row(math.prod(outer), columns, row.dtype, row.settings["num_warps"])
    return Program(function, inputs, SAME_KERNEL if row.family.endswith("_triton") else SAME_PLAN)


def _eager_rms_norm(row: Published) -> Program:
    residual = row.settings["residual"]
    plan = Rows(math.prod(row.shape[:-1]), row.shape[-1], row.dtype, row.parameter_dtype, centred=False, statistics=0,
                residual=residual)  # fmt: skip
    x, w, _ = _tensors(row)
    return Program(eager_rms_norm(plan, row.settings["num_warps"]), (x,) * (1 + residual) + (w,), SAME_LAUNCHES)


_FORMS: dict[str, Callable[[Published], Program]] = {
    "xla_forward": _xla_forward,
    "xla_vjp": _xla_vjp,
    "xla_forward_vjp": _xla_forward_vjp,
    "blocks_forward": _blocks_forward,
    "blocks_vjp": _blocks_vjp,
    "blocks_forward_vjp": _blocks_forward_vjp,
    "row_forward": _row_forward,
    "two_pass_row": _two_pass_row,
    "group_loops": _group_loops,
    "softmax_row": _softmax_row,
    "eager_rms_norm": _eager_rms_norm,
}
