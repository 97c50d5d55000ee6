"""What is computed, whoever computes it: operator, pass, context, shape, layout and dtypes."""

from dataclasses import dataclass
from typing import Any

DTYPES = ("float32", "float64", "bfloat16", "float16")
ACTIVATIONS = ("none", "relu", "silu", "gelu")

LAYOUTS = {
    "c": 0,
    "nc": 1,
    "ncl": 1,
    "nlc": -1,
    "nchw": 1,
    "nhwc": -1,
    "ncdhw": 1,
    "ndhwc": -1,
}
"""Channel axis by layout; the length of the name is the rank of x."""


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One problem: every variant of `operator` answers it.

    Attributes:
      operator: name in the registry, e.g. "batch_norm".
      shape: shape of x in the order of `layout`.
      layout: a key of `LAYOUTS`.
      dtype: of x and of the output.
      param_dtype: of the parameters (gamma, beta, mean, variance; the weights of a convolution have x's dtype).
      pass_: "forward", "backward" or "forward_backward".
      context: what surrounds the operator: see `normbench.kernels.contexts`.
      epsilon: added to the variance.
      options: operator-specific settings as sorted (name, value) pairs, e.g. (("features", 128), ("kernel", (3, 3))).
    """

    operator: str
    shape: tuple[int, ...]
    layout: str = "nchw"
    dtype: str = "float32"
    param_dtype: str = "float32"
    pass_: str = "forward"
    context: str = "alone"
    epsilon: float = 1e-5
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def channel_axis(self) -> int:
        return LAYOUTS[self.layout] % len(self.shape)

    @property
    def channels(self) -> int:
        return self.shape[self.channel_axis]

    def option(self, name: str, default: Any = None) -> Any:
        return dict(self.options).get(name, default)
