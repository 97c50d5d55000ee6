"""Liger, QuACK and Apex: kernels for PyTorch on a GPU, called as their own documentation calls them.

Each function takes a problem and returns its normalization, (x, *parameters) -> y, for
`normbench.kernels.peers.torch_program`. The library is imported when the function is called, by the full name of its
module: some packages have a function of the same name. See docs/peers.md.
"""

from collections.abc import Callable
from importlib import import_module

from normbench.kernels.peers.torch_program import Normalization, as_x
from normbench.kernels.problem import Problem
from normbench.kernels.registry import operator


def liger(problem: Problem) -> Normalization:
    """`liger_kernel.transformers.functional`; RMS norm in its default casting mode, without writing over dy."""
    functional = import_module("liger_kernel.transformers.functional")
    epsilon = problem.epsilon
    if problem.operator == "layer_norm":
        return lambda x, gamma, beta: functional.liger_layer_norm(x, gamma, beta, epsilon)
    if problem.operator == "rms_norm":
        return lambda x, gamma: functional.liger_rms_norm(x, gamma, epsilon, in_place=False)
    groups = operator(problem.operator).keywords(problem)["groups"]
    return lambda x, gamma, beta: functional.liger_group_norm(x, gamma, beta, x.shape[1], groups, epsilon)


def quack(problem: Problem) -> Normalization:
    """`quack.rmsnorm`, of two axes: RMS norm, and the forward pass of layer norm with its parameters in float32."""
    rmsnorm = import_module("quack.rmsnorm")
    epsilon = problem.epsilon

    def rms_norm(x, gamma):
        return rmsnorm.rmsnorm(x.reshape(-1, x.shape[-1]), gamma, eps=epsilon).reshape(x.shape)

    def layer_norm(x, gamma, beta):
        rows = x.reshape(-1, x.shape[-1])
        return rmsnorm.layernorm_fwd(rows, gamma.float(), beta.float(), epsilon).reshape(x.shape)

    return rms_norm if problem.operator == "rms_norm" else layer_norm


def apex(problem: Problem) -> Normalization:
    """`apex.normalization`, parameters in x's dtype; `apex.contrib.group_norm` where channels come last."""
    if problem.operator == "group_norm":
        return _apex_group_norm(problem)
    fused_layer_norm = import_module("apex.normalization.fused_layer_norm")
    epsilon = problem.epsilon
    if problem.operator == "rms_norm":
        return lambda x, gamma: fused_layer_norm.fused_rms_norm_affine(x, as_x(gamma, x), gamma.shape, epsilon)
    return lambda x, gamma, beta: fused_layer_norm.fused_layer_norm_affine(
        x, as_x(gamma, x), as_x(beta, x), gamma.shape, epsilon
    )


def _apex_group_norm(problem: Problem) -> Normalization:
    """In one pass over an image that fits on the chip, else in two, as the library's own module decides."""
    group_norm = import_module("apex.contrib.group_norm.group_norm")
    groups = operator(problem.operator).keywords(problem)["groups"]
    pixels = problem.shape[1] * problem.shape[2]
    one_pass = pixels <= 1024 and not (pixels >= 512 and problem.channels > 3072)
    function = group_norm.cuda_group_norm_nhwc_one_pass if one_pass else group_norm.cuda_group_norm_nhwc_two_pass
    return lambda x, gamma, beta: function(x, groups, gamma, beta, problem.epsilon)


LIBRARIES: dict[str, Callable[[Problem], Normalization]] = {"liger": liger, "quack": quack, "apex": apex}
