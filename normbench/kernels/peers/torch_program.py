"""What PyTorch runs for a problem: one of its normalizations, in the problem's context, with its gradients.

Imported only when a variant is compiled: `import kernels` imports no PyTorch. PyTorch has channels on axis 1 and calls
channels last a memory format: such an x is placed as a view of that format ahead of the call, as its users hold it.
"""

import os
from collections.abc import Callable
from typing import Any

import jax
import ml_dtypes
import numpy as np
import torch
from torch.nn import functional

from normbench.kernels.contexts import CAST_DTYPES, activation_of
from normbench.kernels.hosted import Hosted
from normbench.kernels.problem import Problem
from normbench.kernels.registry import operator

Normalization = Callable[..., Any]
"""(x, *parameters), channels on axis 1 -> y, or (y, *new running statistics)."""
CHANNELS_ON_AXIS_1 = ("batch_norm", "batch_norm_training", "group_norm", "instance_norm", "local_response_norm")
_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "none": lambda y: y,
    "relu": functional.relu,
    "silu": functional.silu,
    "gelu": lambda y: functional.gelu(y, approximate="tanh"),
}


def hosted(
    normalization: Callable[[Problem], Normalization], problem: Problem, target: str, compiled: bool = False
) -> Hosted:
    """The program for `problem` on "cpu" or "gpu".

    Args:
      normalization: problem -> the library's function.
      compiled: by `torch.compile`, context and all; else as it stands, kernel by kernel.

    Raises:
      RuntimeError: for "gpu" where PyTorch finds none.
    """
    if target == "gpu" and not torch.cuda.is_available():
        raise RuntimeError("PyTorch finds no GPU")
    if target == "cpu" and hasattr(os, "sched_getaffinity"):
        torch.set_num_threads(len(os.sched_getaffinity(0)))  # as many as XLA takes
    forward = _in_context(problem, normalization(problem))
    if compiled:
        forward = _compiled(forward)
    differentiated = problem.pass_ == "forward_backward"
    return Hosted(
        call=_with_gradients(problem, forward) if differentiated else forward,
        place=_Placement(problem, torch.device("cuda" if target == "gpu" else "cpu")),
        fetch=lambda outputs: jax.tree.map(lambda leaf: _fetched(problem, leaf), outputs),
        copy=lambda leaf: leaf.detach().clone().requires_grad_(leaf.requires_grad),
        block=_wait_for_gpu if target == "gpu" else lambda outputs: outputs,
    )


def functional_form(problem: Problem) -> Normalization:
    """PyTorch's own function: `torch.nn.functional`."""
    settings = operator(problem.operator).keywords(problem)
    epsilon = problem.epsilon
    if problem.operator == "batch_norm":
        return lambda x, gamma, beta, mean, variance: functional.batch_norm(
            x, mean, variance, gamma, beta, training=False, eps=epsilon
        )
    if problem.operator == "batch_norm_training":
        return _training_batch_norm(settings["momentum"], epsilon)
    if problem.operator == "layer_norm":
        return lambda x, gamma, beta: functional.layer_norm(x, gamma.shape, _taken(gamma, x), _taken(beta, x), epsilon)
    if problem.operator == "rms_norm":
        return lambda x, gamma: functional.rms_norm(x, gamma.shape, as_x(gamma, x), epsilon)
    if problem.operator == "group_norm":
        groups = settings["groups"]
        return lambda x, gamma, beta: functional.group_norm(x, groups, _taken(gamma, x), _taken(beta, x), epsilon)
    if problem.operator == "instance_norm":
        return lambda x, gamma, beta: functional.instance_norm(x, weight=gamma, bias=beta, eps=epsilon)
    return lambda x: functional.local_response_norm(
        x, settings["size"], settings["alpha"], settings["beta"], settings["k"]
    )


def as_x(parameter: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The parameter in x's dtype, for functions that take no other; the parameter itself where it has it."""
    return parameter.to(x.dtype)


def _taken(parameter: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The kernels for a CPU take parameters in float32 beside a narrower x, and sum their gradients in float32."""
    return parameter if x.device.type == "cpu" else as_x(parameter, x)


def _training_batch_norm(momentum: float, epsilon: float) -> Normalization:
    def normalize(x, gamma, beta, running_mean, running_variance):
        """Updates the running statistics in place, as PyTorch does."""
        y = functional.batch_norm(
            x, running_mean, running_variance, gamma, beta, training=True, momentum=momentum, eps=epsilon
        )
        return y, running_mean, running_variance

    return normalize


def _in_context(problem: Problem, normalize: Normalization) -> Callable[..., Any]:
    """The same function of x, a residual where the context brings one, and the parameters, in the context."""
    activate = _ACTIVATIONS[activation_of(problem.context)]

    def after(outputs: Any, change: Callable[[torch.Tensor], Any]) -> Any:
        return (change(outputs[0]), *outputs[1:]) if isinstance(outputs, tuple) else change(outputs)

    def forward(x, *others):
        return after(normalize(x, *others), activate)

    def add_and_forward(x, residual, *others):
        z = x + residual
        return after(normalize(z, *others), lambda y: (y, z))

    def forward_and_cast(x, *others):
        return after(normalize(x, *others), lambda y: y.to(getattr(torch, CAST_DTYPES[problem.dtype])))

    return {"residual": add_and_forward, "cast": forward_and_cast}.get(problem.context, forward)


def _compiled(forward: Callable[..., Any]) -> Callable[..., Any]:
    import torch._dynamo
    import torch._inductor.config as inductor

    inductor.compile_threads = 1  # else processes of its own stay beside the measurement
    inductor.force_disable_caches = True  # the time of compiling is not that of another run
    torch._dynamo.reset()
    return torch.compile(forward, dynamic=False, fullgraph=True)


def _with_gradients(problem: Problem, forward: Callable[..., Any]) -> Callable[..., Any]:
    statistics = operator(problem.operator).statistics
    leading = 2 if problem.context == "residual" else 1

    def call(inputs, cotangent):
        outputs = forward(*inputs)
        y = outputs[0] if statistics else outputs
        parameters = inputs[leading : len(inputs) - statistics]
        return outputs, torch.autograd.grad(y, (inputs[0], *parameters), cotangent)

    return call


class _Placement:
    """Makes PyTorch's tensors of NumPy's arrays."""

    def __init__(self, problem: Problem, device: torch.device):
        self._problem = problem
        self._device = device

    def __call__(self, inputs: Any) -> Any:
        problem = self._problem
        if problem.pass_ == "forward":
            return tuple(self._placed(array) for array in inputs)
        arrays, cotangent = inputs
        statistics = operator(problem.operator).statistics
        placed = [self._placed(array) for array in arrays]
        for position, leaf in enumerate(placed[: len(placed) - statistics]):
            leaf.requires_grad_(not (problem.context == "residual" and position == 1))
        return tuple(placed), jax.tree.map(self._placed, cotangent)

    def _placed(self, array: Any) -> torch.Tensor:
        array = np.array(array)
        if array.dtype == ml_dtypes.bfloat16:
            leaf = torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        else:
            leaf = torch.from_numpy(array)
        return _moved(self._problem, leaf.to(self._device), self._problem.channel_axis, 1)


def _fetched(problem: Problem, leaf: torch.Tensor) -> np.ndarray:
    leaf = _moved(problem, leaf.detach().cpu(), 1, problem.channel_axis).contiguous()
    if leaf.dtype == torch.bfloat16:
        return leaf.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return leaf.numpy()


def _moved(problem: Problem, leaf: torch.Tensor, source: int, destination: int) -> torch.Tensor:
    """A view of what is shaped as x with its channels on another axis; anything else as it is."""
    if problem.operator not in CHANNELS_ON_AXIS_1 or leaf.dim() != len(problem.shape):
        return leaf
    return leaf.movedim(source, destination)


def _wait_for_gpu(outputs: Any) -> Any:
    torch.cuda.synchronize()
    return outputs
