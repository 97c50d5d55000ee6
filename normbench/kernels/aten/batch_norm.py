"""ATen's batch normalization, forward: y = (x - mean_c) / sqrt(var_c + eps) * weight_c + bias_c.

Common to the operators of this file:
- input is (N, C, ...) of rank 2 or more, float16, bfloat16, float32 or float64; the computation is in float32 (float64
  for float64). weight, bias, running_mean and running_var have C elements and are optional where the schema says
  `Tensor?`. They have input's dtype, or all are float32 beside a half-precision input.
- Training normalizes with the mean and the *biased* variance over all axes but 1. The running statistics take
  `(1 - momentum) * old + momentum * new`, with the *unbiased* variance. Evaluation normalizes with the running
  statistics, which are constants for differentiation.
- save_mean and save_invstd = 1 / sqrt(var + eps) are (C,), in the dtype of the parameters (input's without parameters),
  and not differentiable. In evaluation they are empty, of shape (0,), as PyTorch has it on CPU.
- In training save_invstd is 0 where var and eps both are: a constant channel becomes the bias.
- JAX arrays are immutable: where ATen updates the running statistics in place, the operators of this file do not. The
  twins in `batch_norm_functional` return the new ones.

Raised: AtenError for an argument without C elements, a mixture of dtypes, evaluation without statistics, training on
no elements; its subclasses AtenDtypeError for a dtype that is not floating and AtenIndexError for rank below 2;
UserError (a ValueError) where only one of the running statistics is given in training.
"""

import jax
import jax.numpy as jnp

from normbench.kernels.aten.batch_norm_functional import (
    _native_batch_norm_legit_functional,
    batch_norm_functional,
    batch_norm_update_stats_functional,
    native_batch_norm_functional,
)

Triple = tuple[jax.Array, jax.Array, jax.Array]
Quadruple = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


def batch_norm(
    input: jax.Array,
    weight: jax.Array | None,
    bias: jax.Array | None,
    running_mean: jax.Array | None,
    running_var: jax.Array | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> jax.Array:
    """batch_norm(Tensor input, Tensor? weight, Tensor? bias, Tensor? running_mean, Tensor? running_var, bool training,
    float momentum, float eps, bool cudnn_enabled) -> Tensor

    y = (x - mean) / sqrt(var + eps) * weight + bias; shape and dtype of input. The statistics are those of the batch
    in training, the running ones in evaluation. An empty input is returned as it is. cudnn_enabled has no effect.
    The running statistics are not updated: see `batch_norm_functional`. Errors: see the module.
    """
    return batch_norm_functional(
        input, weight, bias, running_mean, running_var, training, momentum, eps, cudnn_enabled
    )[0]


def native_batch_norm(
    input: jax.Array,
    weight: jax.Array | None,
    bias: jax.Array | None,
    running_mean: jax.Array | None,
    running_var: jax.Array | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Triple:
    """native_batch_norm(Tensor input, Tensor? weight, Tensor? bias, Tensor? running_mean, Tensor? running_var,
    bool training, float momentum, float eps) -> (Tensor, Tensor, Tensor)

    Returns y, save_mean, save_invstd; the last two are (C,) in training and (0,) in evaluation. The running statistics
    are not updated: see `native_batch_norm_functional`. Errors: see the module. Where PyTorch on CPU reads beyond the
    end of a vector that is too short, or crashes in evaluation without statistics, an AtenError is raised.
    """
    return native_batch_norm_functional(input, weight, bias, running_mean, running_var, training, momentum, eps)[:3]


def _native_batch_norm_legit(
    input: jax.Array,
    weight: jax.Array | None,
    bias: jax.Array | None,
    running_mean: jax.Array,
    running_var: jax.Array,
    training: bool,
    momentum: float,
    eps: float,
) -> Triple:
    """_native_batch_norm_legit(Tensor input, Tensor? weight, Tensor? bias, Tensor(a!) running_mean,
    Tensor(b!) running_var, bool training, float momentum, float eps) -> (Tensor, Tensor, Tensor)

    As `native_batch_norm`; the running statistics are required (AtenError otherwise), and not updated here: see
    `_native_batch_norm_legit_functional`.
    """
    return _native_batch_norm_legit_functional(input, weight, bias, running_mean, running_var, training, momentum, eps)[
        :3
    ]


def _native_batch_norm_legit_no_stats(
    input: jax.Array,
    weight: jax.Array | None,
    bias: jax.Array | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Triple:
    """_native_batch_norm_legit.no_stats(Tensor input, Tensor? weight, Tensor? bias, bool training, float momentum,
    float eps) -> (Tensor, Tensor, Tensor)

    As `native_batch_norm` without running statistics; AtenError for training=False, where PyTorch on CPU crashes.
    """
    return native_batch_norm(input, weight, bias, None, None, training, momentum, eps)


def _native_batch_norm_legit_no_training(
    input: jax.Array,
    weight: jax.Array | None,
    bias: jax.Array | None,
    running_mean: jax.Array,
    running_var: jax.Array,
    momentum: float,
    eps: float,
) -> Triple:
    """_native_batch_norm_legit_no_training(Tensor input, Tensor? weight, Tensor? bias, Tensor running_mean,
    Tensor running_var, float momentum, float eps) -> (Tensor, Tensor, Tensor)

    Returns y = (x - running_mean) / sqrt(running_var + eps) * weight + bias and two empty arrays (0,) of the dtype of
    the parameters. momentum has no effect. Errors: see the module.
    """
    return _native_batch_norm_legit(input, weight, bias, running_mean, running_var, False, momentum, eps)


def _batch_norm_with_update(
    input: jax.Array,
    weight: jax.Array | None,
    bias: jax.Array | None,
    running_mean: jax.Array,
    running_var: jax.Array,
    momentum: float,
    eps: float,
) -> Quadruple:
    """_batch_norm_with_update(Tensor input, Tensor? weight, Tensor? bias, Tensor(a!) running_mean,
    Tensor(b!) running_var, float momentum, float eps) -> (Tensor, Tensor, Tensor, Tensor)

    Training. Returns y, save_mean, save_invstd and an empty uint8 reserve (0,), as on CPU. The running statistics are
    not updated: see `_batch_norm_with_update_functional`. Errors: see the module.
    """
    outputs = _native_batch_norm_legit(input, weight, bias, running_mean, running_var, True, momentum, eps)
    return *outputs, jnp.zeros(0, jnp.uint8)


def _batch_norm_no_update(
    input: jax.Array,
    weight: jax.Array | None,
    bias: jax.Array | None,
    running_mean: jax.Array | None,
    running_var: jax.Array | None,
    momentum: float,
    eps: float,
) -> Quadruple:
    """_batch_norm_no_update(Tensor input, Tensor? weight, Tensor? bias, Tensor? running_mean, Tensor? running_var,
    float momentum, float eps) -> (Tensor, Tensor, Tensor, Tensor)

    Evaluation. Returns y, two empty arrays (0,) of the dtype of the parameters and an empty uint8 reserve (0,), as on
    CPU. momentum has no effect. AtenError without running statistics, whatever the schema says; others: the module.
    """
    outputs = native_batch_norm(input, weight, bias, running_mean, running_var, False, momentum, eps)
    return *outputs, jnp.zeros(0, jnp.uint8)


def batch_norm_update_stats(
    input: jax.Array, running_mean: jax.Array | None, running_var: jax.Array | None, momentum: float
) -> tuple[jax.Array, jax.Array]:
    """batch_norm_update_stats(Tensor input, Tensor? running_mean, Tensor? running_var, float momentum)
    -> (Tensor, Tensor)

    Returns the mean and the *biased* variance over all axes but 1, each (C,), in the dtype of the running statistics
    (input's without them), not differentiable. The running statistics are not updated: see
    `batch_norm_update_stats_functional`. Errors: see the module.
    """
    return batch_norm_update_stats_functional(input, running_mean, running_var, momentum)[:2]
