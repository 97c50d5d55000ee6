"""PyTensor as a second compiler: the variants `pytensor_jax`, `pytensor_numba` and `pytensor_c` of several operators.

`pytensor_jax` is what PyTensor's JAX backend hands to XLA, and as much a JAX program as any: it compiles for every
target. The other two are functions of NumPy arrays, for the CPU of this machine. Those ending in `_prefolded` take what
the operator's own `prepare` returns, as the rewrites of `normbench.kernels.pytensor.fold` would have it. The variants
are registered without PyTensor, which is imported when one is compiled.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np

from normbench.kernels.problem import Problem
from normbench.kernels.registry import Variant, get, register_variant

_BACKENDS = {
    "jax": "PyTensor's graph through its JAX backend",
    "numba": "PyTensor's graph through its Numba backend",
    "c": "PyTensor's graph through its C backend: batch norm and convolution in NumPy, the rest in C",
}
_CHANNELS_ON_AXIS_1 = ("batch_norm", "conv_bn", "group_norm", "instance_norm")
_PREFOLDED = ("batch_norm", "conv_bn")
_CONTEXTS = ("alone", "relu", "silu", "gelu")


def unsupported(backend: str, problem: Problem, target: str) -> str | None:
    """The reason why PyTensor cannot compute a problem on a target, or None."""
    dtypes = {problem.dtype, problem.param_dtype}
    reasons = {
        "PyTensor is not installed: pip install 'normbench[pytensor]'": find_spec("pytensor") is None,
        f"PyTensor's {backend} backend computes on the CPU": backend != "jax" and target != "cpu",
        "the PyTensor variants are of the forward pass": problem.pass_ != "forward",
        f"the PyTensor variants stand alone or before {', '.join(_CONTEXTS[1:])}": problem.context not in _CONTEXTS,
        "PyTensor has no bfloat16": "bfloat16" in dtypes,
        "Numba has no float16 on a CPU": backend == "numba" and "float16" in dtypes,
        "the PyTensor Ops have channels on axis 1": _channels_last(problem),
        "the PyTensor convolution is 2-D, and not transposed": _other_convolution(problem),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _channels_last(problem: Problem) -> bool:
    return problem.operator in _CHANNELS_ON_AXIS_1 and problem.channel_axis > 1


def _other_convolution(problem: Problem) -> bool:
    return problem.operator == "conv_bn" and (len(problem.shape) != 4 or problem.option("transposed", False))


def _in_jax(operator: str, prefolded: bool, *arrays: Any, **keywords: Any) -> Any:
    from normbench.kernels.pytensor.compiled import in_jax

    return in_jax(operator, prefolded, *arrays, **keywords)


def _compile_host(backend: str, operator: str, prefolded: bool, *arrays: Any, **keywords: Any) -> Callable[..., Any]:
    from normbench.kernels.pytensor.compiled import host_function

    return host_function(backend, operator, prefolded, *arrays, **keywords)


def _on_host(compile_host: Callable[..., Callable], *arrays: Any, **keywords: Any) -> np.ndarray:
    given = [None if array is None else np.ascontiguousarray(array) for array in arrays]
    return compile_host(*given, **keywords)(*(array for array in given if array is not None))


def _variant(operator: str, backend: str) -> Variant:
    compile_host = None if backend == "jax" else partial(_compile_host, backend, operator, False)
    function = partial(_on_host, compile_host) if compile_host else partial(_in_jax, operator, False)
    return Variant(
        operator,
        f"pytensor_{backend}",
        function,
        _BACKENDS[backend],
        supports_problem=partial(unsupported, backend),
        compiler="pytensor",
        compile_host=compile_host,
    )


def _prefolded_variant(operator: str, backend: str) -> Variant:
    compile_host = None if backend == "jax" else partial(_compile_host, backend, operator, True)
    apply: Callable[..., Any] = partial(_on_host, compile_host) if compile_host else partial(_in_jax, operator, True)
    folded = get(operator, "prefolded")

    def function(x: Any, *parameters: Any, **keywords: Any) -> Any:
        assert folded.prepare is not None
        return apply(x, *folded.prepare(*parameters, **keywords, dtype=x.dtype.name), **keywords)

    return replace(
        _variant(operator, backend),
        name=f"pytensor_{backend}_prefolded",
        function=function,
        summary=f"{_BACKENDS[backend]}; folded once, ahead of the call",
        prepare=folded.prepare,
        apply=apply,
        compile_host=compile_host,
    )


def register(operators: Sequence[str]) -> None:
    """Registers the variants of each operator, after those that are there."""
    for operator in operators:
        for backend in _BACKENDS:
            register_variant(_variant(operator, backend))
            if operator in _PREFOLDED:
                register_variant(_prefolded_variant(operator, backend))


register(("batch_norm", "conv_bn", "layer_norm", "rms_norm", "group_norm", "instance_norm"))
