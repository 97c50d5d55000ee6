"""PyTorch beside JAX: the variants `torch_eager` and `torch_compile` of every normalization that PyTorch has.

They are registered without PyTorch, which is imported when one is compiled, and are compiled for the device of this
machine alone. See docs/peers.md.
"""

import importlib.metadata
import os
import shutil
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any, NoReturn

from kernels.hosted import Hosted
from kernels.problem import Problem
from kernels.registry import Variant, register_variant
from normbench.errors import UserError

OPERATORS = (
    "batch_norm", "batch_norm_training", "layer_norm", "rms_norm", "group_norm", "instance_norm", "local_response_norm",
)  # fmt: skip
DEVICES = ("cpu", "gpu")


def torch_missing(problem: Problem, target: str) -> str | None:
    """The reason why PyTorch, or a library for it, cannot run a problem on a target, or None."""
    half = problem.dtype in ("bfloat16", "float16")
    reasons = {
        "PyTorch is not installed: pip install 'normbench[peers]'": find_spec("torch") is None,
        "PyTorch runs on the device of this machine alone": target not in DEVICES,
        "this PyTorch is built without CUDA": target == "gpu" and _without_cuda(),
        "the PyTorch variants are of the forward pass, alone or with the backward pass": problem.pass_ == "backward",
        "PyTorch takes parameters in x's dtype, or in float32 where x is narrower": problem.operator
        != "local_response_norm"
        and problem.param_dtype != problem.dtype
        and not (half and problem.param_dtype == "float32"),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _without_cuda() -> bool:
    try:
        return importlib.metadata.version("torch").endswith("+cpu")
    except importlib.metadata.PackageNotFoundError:
        return False


def _functional_missing(problem: Problem, target: str) -> str | None:
    least = 3 if problem.operator in ("local_response_norm", "instance_norm") else 2
    reasons = {
        "PyTorch has no gradient of the running statistics": problem.operator == "batch_norm"
        and problem.pass_ != "forward",
        f"PyTorch takes {least} axes or more": len(problem.shape) < least,
    }
    return torch_missing(problem, target) or next((reason for reason, holds in reasons.items() if holds), None)


def _compile_missing(problem: Problem, target: str) -> str | None:
    reasons = {
        "torch.compile needs a C++ compiler": target == "cpu" and not shutil.which(os.environ.get("CXX", "g++")),
        "torch.compile needs Triton on a GPU": target == "gpu" and find_spec("triton") is None,
    }
    missing = _functional_missing(problem, target)
    return missing or next((reason for reason, holds in reasons.items() if holds), None)


def _functional(compiled: bool, problem: Problem, target: str) -> Hosted:
    from kernels.torch_program import functional_form, hosted

    return hosted(functional_form, problem, target, compiled)


def refuse_call(name: str, *_: Any, **__: Any) -> NoReturn:
    """What stands in the place of a variant's function where it is no JAX program."""
    raise UserError(f"variant {name!r} is a program of PyTorch; it can be studied, not called")


def torch_variant(
    operator: str,
    name: str,
    summary: str,
    supports_problem: Callable[[Problem, str], str | None],
    host: Callable[[Problem, str], Hosted],
) -> Variant:
    refuse = partial(refuse_call, name)
    return Variant(operator, name, refuse, summary, supports_problem, compiler="torch", host=host)


_EAGER = "torch.nn.functional, kernel by kernel"
_COMPILE = "torch.nn.functional by torch.compile, context and all"
for _operator in OPERATORS:
    for _variant in (
        torch_variant(_operator, "torch_eager", _EAGER, _functional_missing, partial(_functional, False)),
        torch_variant(_operator, "torch_compile", _COMPILE, _compile_missing, partial(_functional, True)),
    ):
        register_variant(_variant)
