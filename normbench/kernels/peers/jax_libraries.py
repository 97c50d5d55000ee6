"""Other libraries for JAX, beside the variants `flax` and `jax_nn` that the operators have: see docs/peers.md.

Each is imported when it is compiled, and each takes the operator's own signature.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp

from normbench.kernels.common.activations import activate
from normbench.kernels.peers.missing import flax_missing
from normbench.kernels.problem import Problem
from normbench.kernels.registry import Variant, register_variant
from normbench.schema import TPU_TARGETS

Array = jax.Array


def flax_batch_norm(
    x: Array, gamma: Array, beta: Array, mean: Array, variance: Array, epsilon: float = 1e-5, *,
    channel_axis: int = 1, activation: str = "none",
) -> Array:  # fmt: skip
    """`flax.linen.BatchNorm` with its running statistics."""
    from flax import linen

    module = linen.BatchNorm(use_running_average=True, axis=channel_axis, epsilon=epsilon, dtype=x.dtype)
    variables = {"params": {"scale": gamma, "bias": beta}, "batch_stats": {"mean": mean, "var": variance}}
    return activate(module.apply(variables, x), activation)


def jax_nn_batch_norm(
    x: Array, gamma: Array, beta: Array, mean: Array, variance: Array, epsilon: float = 1e-5, *,
    channel_axis: int = 1, activation: str = "none",
) -> Array:  # fmt: skip
    """`jax.nn.standardize` with a mean and a variance that are given, and the affine."""
    shape = [1] * x.ndim
    shape[channel_axis] = -1
    gamma, beta, mean, variance = (parameter.reshape(shape) for parameter in (gamma, beta, mean, variance))
    y = jax.nn.standardize(x, mean=mean, variance=variance, epsilon=epsilon) * gamma + beta
    return activate(y.astype(x.dtype), activation)


def _rows(x: Array, gamma: Array, *rest: Array) -> tuple[Array, ...]:
    """x with its normalized axes as one, and each parameter with one axis."""
    rows = x.reshape(*x.shape[: x.ndim - gamma.ndim], gamma.size)
    return rows, *(parameter.reshape(-1) for parameter in (gamma, *rest))


def pallas_ops_layer_norm(
    x: Array, gamma: Array, beta: Array, epsilon: float = 1e-5, *, ndim: int = 1, activation: str = "none"
) -> Array:
    """`jax.experimental.pallas.ops.gpu.layer_norm`, which takes three axes."""
    from normbench.jax_compat.peers import pallas_ops_layer_norm

    rows, weight, bias = _rows(x, gamma, beta)
    y = pallas_ops_layer_norm()(rows.reshape(1, -1, weight.size), weight, bias, eps=epsilon)
    return activate(y.reshape(x.shape), activation)


def pallas_ops_rms_norm(
    x: Array, gamma: Array, epsilon: float = 1e-5, *, ndim: int = 1, activation: str = "none"
) -> Array:
    """`jax.experimental.pallas.ops.gpu.rms_norm`, which takes three axes, and a bias: zeros."""
    from normbench.jax_compat.peers import pallas_ops_rms_norm

    rows, weight = _rows(x, gamma)
    y = pallas_ops_rms_norm()(rows.reshape(1, -1, weight.size), weight, jnp.zeros_like(weight), eps=epsilon)
    return activate(y.reshape(x.shape), activation)


def tokamax_layer_norm(
    x: Array, gamma: Array, beta: Array, epsilon: float = 1e-5, *, ndim: int = 1, activation: str = "none"
) -> Array:
    """`tokamax.layer_norm`, which chooses its implementation by the device."""
    import tokamax

    rows, scale, offset = _rows(x, gamma, beta)
    return activate(tokamax.layer_norm(rows, scale, offset, axis=-1, epsilon=epsilon).reshape(x.shape), activation)


def tokamax_rms_norm(
    x: Array, gamma: Array, epsilon: float = 1e-5, *, ndim: int = 1, activation: str = "none"
) -> Array:
    """`tokamax.layer_norm` without its mean and offset."""
    import tokamax

    rows, scale = _rows(x, gamma)
    y = tokamax.layer_norm(rows, scale, None, axis=-1, epsilon=epsilon, subtract_mean=False)
    return activate(y.reshape(x.shape), activation)


def transformer_engine_layer_norm(
    x: Array, gamma: Array, beta: Array, epsilon: float = 1e-5, *, ndim: int = 1, activation: str = "none"
) -> Array:
    """`transformer_engine.jax.layernorm.layernorm`, parameters in x's dtype."""
    from transformer_engine.jax.layernorm import layernorm

    rows, scale, shift = _rows(x, gamma.astype(x.dtype), beta.astype(x.dtype))
    return activate(layernorm(rows, scale, shift, "layernorm", False, epsilon).reshape(x.shape), activation)


def transformer_engine_rms_norm(
    x: Array, gamma: Array, epsilon: float = 1e-5, *, ndim: int = 1, activation: str = "none"
) -> Array:
    """`transformer_engine.jax.layernorm.layernorm` as RMS norm, its parameter in x's dtype."""
    from transformer_engine.jax.layernorm import layernorm

    rows, scale = _rows(x, gamma.astype(x.dtype))
    return activate(layernorm(rows, scale, None, "rmsnorm", False, epsilon).reshape(x.shape), activation)


def pallas_ops_missing(problem: Problem, target: str) -> str | None:
    """The reason why the kernels of `jax.experimental.pallas.ops.gpu` cannot compute a problem, or None."""
    reasons = {
        "jax.experimental.pallas.ops.gpu is for GPUs": target in ("cpu", *TPU_TARGETS),
        "jax.experimental.pallas.ops.gpu computes in float32": "float64" in (problem.dtype, problem.param_dtype),
    }
    return _first(reasons)


def tokamax_missing(problem: Problem, target: str) -> str | None:
    reasons = {
        "tokamax is not installed: pip install tokamax": find_spec("tokamax") is None,
        "tokamax chooses its kernel by the device of this machine": target not in ("cpu", "gpu"),
    }
    return _first(reasons)


def transformer_engine_missing(problem: Problem, target: str) -> str | None:
    reasons = {
        "Transformer Engine is not installed: pip install 'transformer_engine[jax]'": find_spec("transformer_engine")
        is None,
        "Transformer Engine runs on the GPU of this machine": target != "gpu",
        "Transformer Engine has no float64": "float64" in (problem.dtype, problem.param_dtype),
    }
    return _first(reasons)


def _first(reasons: dict[str, bool]) -> str | None:
    return next((reason for reason, holds in reasons.items() if holds), None)


def _register(
    operator: str,
    name: str,
    function: Callable[..., Any],
    summary: str,
    missing: Callable[[Problem, str], str | None] = lambda problem, target: None,
) -> None:
    register_variant(Variant(operator, name, function, summary, missing, compiler="peer"))


_register("batch_norm", "jax_nn", jax_nn_batch_norm, "jax.nn.standardize and the affine")
_register("batch_norm", "flax", flax_batch_norm, "flax.linen.BatchNorm", flax_missing)
_BY_OPERATOR: dict[str, tuple[Callable[..., Any], ...]] = {
    "layer_norm": (pallas_ops_layer_norm, tokamax_layer_norm, transformer_engine_layer_norm),
    "rms_norm": (pallas_ops_rms_norm, tokamax_rms_norm, transformer_engine_rms_norm),
}
for _operator, (_pallas, _tokamax, _engine) in _BY_OPERATOR.items():
    _register(_operator, "pallas_ops_gpu", _pallas, "jax.experimental.pallas.ops.gpu", pallas_ops_missing)
    _register(_operator, "tokamax", _tokamax, "tokamax.layer_norm", tokamax_missing)
    _register(_operator, "transformer_engine", _engine, "transformer_engine.jax", transformer_engine_missing)
