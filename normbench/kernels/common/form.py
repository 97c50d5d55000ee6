"""The forms of RMS norm that language models use: where x_hat is rounded, what is added to gamma, y in eight bits.

With x_hat = x / sqrt(E[x²] + epsilon), computed in float32 at least:

    y = act(round(x_hat) (offset + gamma)),   and stored in float8_e4m3fn: clip(y / s, -448, 448)

The gradient passes a rounding as it is. Llama rounds x_hat to x's dtype and then scales; Gemma scales by 1 + gamma in
float32 and rounds once. Sources: the classes LlamaRMSNorm and GemmaRMSNorm of transformers 4; for e4m3fn, which has no
infinities and whose largest number is 448, Micikevicius et al. (2022), FP8 Formats for Deep Learning.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from normbench.errors import UserError, unknown
from normbench.kernels.common.activations import activate

FP8 = "float8_e4m3fn"
FP8_MOST = 448.0
HAT_DTYPES = ("bfloat16", "float16", "float32")
OPTIONS = ("hat_dtype", "scale_offset", "fp8_scale")
"""Of a problem, by the names of the attributes of `Form`."""


@dataclass(frozen=True, slots=True)
class Form:
    """What a norm does with x_hat; the default is the textbook's: y = x_hat gamma, rounded once.

    Attributes:
      hat_dtype: what x_hat is rounded to before it is scaled; None: it is not. Llama: x's dtype.
      scale_offset: added to gamma, in the dtype of the arithmetic. Gemma: 1.
      fp8_scale: of y in float8_e4m3fn, which then holds y / fp8_scale; None: y is in x's dtype.
    """

    hat_dtype: str | None = None
    scale_offset: float = 0.0
    fp8_scale: float | None = None

    @property
    def divides(self) -> bool:
        return self.fp8_scale is not None

    def scale(self, gamma: Any) -> Any:
        """What x_hat is multiplied by; `gamma` in the dtype of the arithmetic."""
        return gamma + self.scale_offset if self.scale_offset else gamma

    def rounded(self, hat: jax.Array) -> jax.Array:
        """x_hat as it is scaled, with the gradient of x_hat."""
        return hat if self.hat_dtype is None else _straight_through(hat, _reduced, self.hat_dtype)

    def rounded_in_triton(self, hat: jax.Array) -> jax.Array:
        """As `rounded`, inside a kernel."""
        return hat if self.hat_dtype is None else _straight_through(hat, _cast, self.hat_dtype)

    def rounded_in_mosaic(self, hat: jax.Array) -> jax.Array:
        """As `rounded`, inside a kernel, where nothing is differentiated."""
        return hat if self.hat_dtype is None else _cast(hat, self.hat_dtype)

    def finished(self, z: jax.Array, activation: str) -> jax.Array:
        """act(z), in the units and within the range of the output."""
        return self.in_units(activate(z, activation))

    def in_units(self, y: jax.Array) -> jax.Array:
        return y if self.fp8_scale is None else jnp.clip(y / self.fp8_scale, -FP8_MOST, FP8_MOST)

    def output_dtype(self, dtype: str) -> str:
        """Of y, where it would be `dtype`. Of float64, in which results are judged, y stays in float64."""
        return dtype if self.fp8_scale is None or dtype == "float64" else FP8

    def checked(self) -> "Form":
        """Raises UserError for values that make no sense."""
        if self.hat_dtype is not None and self.hat_dtype not in HAT_DTYPES:
            raise unknown("hat_dtype", self.hat_dtype, HAT_DTYPES)
        if not _is_number(self.scale_offset):
            raise UserError(f"scale_offset {self.scale_offset!r}; allowed: a finite number, 1 for Gemma")
        if self.fp8_scale is not None and not (_is_number(self.fp8_scale) and self.fp8_scale > 0):
            raise UserError(f"fp8_scale {self.fp8_scale!r}; allowed: a finite number above 0")
        return self


def _reduced(hat: jax.Array, dtype: str) -> jax.Array:
    """A cast and one back are no rounding to XLA, which may keep the excess precision."""
    info = jnp.finfo(dtype)
    return jax.lax.reduce_precision(hat, info.nexp, info.nmant)


def _cast(hat: jax.Array, dtype: str) -> jax.Array:
    """Triton's and Mosaic's compilers keep casts, and know no `reduce_precision`."""
    return hat.astype(dtype).astype(hat.dtype)


@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _straight_through(hat: jax.Array, rounding: Callable[[jax.Array, str], jax.Array], dtype: str) -> jax.Array:
    return rounding(hat, dtype)


@_straight_through.defjvp
def _tangent(rounding, dtype, primals, tangents):
    return rounding(*primals, dtype), *tangents


PLAIN = Form()


def form_of(problem: Any) -> Form:
    """The form that the options of a problem ask for."""
    options = dict(problem.options)
    return Form(**{name: options[name] for name in OPTIONS if name in options}).checked()


def finished_numpy(hat: np.ndarray, gamma: np.ndarray, form: Form) -> np.ndarray:
    """The form of x_hat before its activation, in float64: x_hat is rounded where the form rounds it."""
    if form.hat_dtype is not None:
        with np.errstate(over="ignore"):
            hat = hat.astype(jnp.dtype(form.hat_dtype)).astype(np.float64)
    return hat * form.scale(gamma)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
