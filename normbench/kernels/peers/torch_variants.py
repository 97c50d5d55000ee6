"""PyTorch beside JAX: the variants `torch_eager` and `torch_compile`, and the libraries `liger`, `quack` and `apex`.

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

from normbench.errors import UserError
from normbench.kernels.hosted import Hosted
from normbench.kernels.problem import Problem
from normbench.kernels.registry import Variant, register_variant

OPERATORS = (
    "batch_norm", "batch_norm_training", "layer_norm", "rms_norm", "group_norm", "instance_norm", "local_response_norm",
)  # fmt: skip
DEVICES = ("cpu", "gpu")
LIBRARIES = {
    "liger": ("liger_kernel", "Liger", "pip install liger-kernel", ("layer_norm", "rms_norm", "group_norm")),
    "quack": ("quack", "QuACK", "pip install quack-kernels", ("layer_norm", "rms_norm")),
    "apex": ("apex", "Apex", "built from its source", ("layer_norm", "rms_norm", "group_norm")),
}
"""Variant -> the module, the library's name, how it is installed, the operators that it has."""
APEX_GROUPS = (16, 32)


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
    from normbench.kernels.peers.torch_program import functional_form, hosted

    return hosted(functional_form, problem, target, compiled)


def _library_missing(name: str, problem: Problem, target: str) -> str | None:
    module, title, install, _ = LIBRARIES[name]
    last = problem.operator == "group_norm" and problem.channel_axis != 1
    reasons = {
        f"{title} is not installed: {install}": find_spec(module) is None,
        f"{title} runs on the GPU of this machine": target != "gpu",
        f"{title} has no float64": problem.dtype == "float64",
        f"{title} normalizes the last axis alone": problem.option("ndim", 1) != 1,
        "QuACK has no gradient of layer norm": name == "quack"
        and problem.operator == "layer_norm"
        and problem.pass_ != "forward",
        "Liger's group norm has channels on axis 1": name == "liger" and last,
        "Apex's group norm has channels last, and 16 or 32 groups": name == "apex"
        and problem.operator == "group_norm"
        and not (last and len(problem.shape) == 4 and problem.option("groups", 32) in APEX_GROUPS),
    }
    missing = next((reason for reason, holds in reasons.items() if holds), None)
    return missing or torch_missing(problem, target)


def _library(name: str, problem: Problem, target: str) -> Hosted:
    from normbench.kernels.peers.torch_libraries import LIBRARIES
    from normbench.kernels.peers.torch_program import hosted

    return hosted(LIBRARIES[name], problem, target)


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
for _name, (_, _title, _, _operators) in LIBRARIES.items():
    for _operator in _operators:
        register_variant(
            torch_variant(
                _operator, _name, f"{_title}, for PyTorch", partial(_library_missing, _name), partial(_library, _name)
            )
        )
