"""One fused kernel in Pallas Triton: each row is read once and written once, with what stands before and after it."""

from functools import partial

import jax

from normbench.kernels.common.form import FP8, PLAIN, Form, form_of
from normbench.kernels.common.pointwise import Pointwise
from normbench.kernels.common.targets import not_for_fp8
from normbench.kernels.pallas.triton.row_norm import row_norm
from normbench.kernels.pallas.triton.row_norm import unsupported as refused
from normbench.kernels.problem import Problem
from normbench.kernels.rms_norm.arguments import checked


def pallas_triton(
    x: jax.Array,
    gamma: jax.Array | None,
    epsilon: float | None = 1e-5,
    *,
    ndim: int = 1,
    activation: str = "none",
    form: Form = PLAIN,
    residual: jax.Array | None = None,
    epilogue: Pointwise | None = None,
    output_dtype: str | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """As `naive`, and what a compiler would have to fuse by itself, which it cannot do with a kernel.

    `residual`, `epilogue` and `output_dtype` as for `layer_norm.pallas_triton`; gradients by hand from x (or z)
    and 1 / RMS in float32.
    """
    a = checked(x, gamma, epsilon, ndim, activation, form)
    return row_norm(
        a.x,
        a.rows,
        (a.gamma,),
        partial(_affine, form),
        activation,
        name="rms_norm",
        centered=False,
        epsilon=a.epsilon,
        residual=residual,
        epilogue=_in_units(form, epilogue),
        output_dtype=form.output_dtype(output_dtype or a.x.dtype.name),
    )


def _affine(form, h, gamma):
    return form.rounded_in_triton(h) * form.scale(gamma)


def _in_units(form: Form, epilogue: Pointwise | None) -> Pointwise | None:
    """The epilogue, and then y in the units of its eight bits, where they are asked for."""
    if not form.divides:
        return epilogue
    if epilogue is None:
        return Pointwise(form.in_units)
    last = epilogue.function
    return Pointwise(lambda *arrays: form.in_units(last(*arrays)), epilogue.vectors, epilogue.tensors)


def unsupported(problem: Problem, target: str) -> str | None:
    """The reason why the kernel cannot compute `problem` on `target`, or None."""
    narrow = form_of(problem).output_dtype(problem.dtype) == FP8
    return refused(problem, target) or (not_for_fp8(target) if narrow else None)
