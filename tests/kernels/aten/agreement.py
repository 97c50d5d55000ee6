"""Asks PyTorch and the JAX function the same question, and compares values, dtypes, shapes, gradients and errors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.kernels.aten.torch_judge import Request, Tensor, TorchJudge, Verdict


@dataclass(frozen=True)
class Scale:
    """How large rounding errors may become, worked out in float64 from the drawn data.

    `value` is the size of the terms that are added to make the result; `condition` what a rounding error of the input
    grows to in the normalized value (1 + max |x| * invstd); `length` how many terms a sum has.
    """

    value: float
    condition: float
    length: int

    def tolerance(self, expected: np.ndarray, compute: str, saved: str) -> float:
        """Rounding of the result, of the saved statistics, and of sums in the dtype of the computation."""
        largest = float(np.nanmax(np.abs(expected), initial=0.0, where=np.isfinite(expected)))
        sums = (4 + self.length**0.5) * epsilon(compute)
        return 4 * epsilon(str(expected.dtype)) * largest + (2 * epsilon(saved) + sums) * self.condition * self.value


@dataclass(frozen=True)
class Question:
    """A call: `torch` names PyTorch's function, `ours` is the function under test; both take `arguments`.

    `scales` gives the scale of each output, `gradient_scales` of each gradient of a floating argument among
    `differentiated` that is present; `mutated` are the arguments that PyTorch updates in place, which are compared with
    our outputs after the declared ones.
    """

    torch: str
    ours: Callable[..., Any]
    arguments: tuple[Any, ...]
    scales: tuple[Scale, ...]
    saved: str
    cotangent: np.ndarray | None = None
    differentiated: tuple[int, ...] = ()
    gradient_scales: tuple[Scale, ...] = ()
    mutated: tuple[int, ...] = ()
    channels_last: bool = False


def epsilon(dtype: str) -> float:
    return float(jnp.finfo(dtype).eps)


def compute_dtype(dtype: Any) -> str:
    return "float64" if str(dtype) == "float64" else "float32"


def to_wire(value: Any, channels_last: bool = False, requires_grad: bool = False) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    return Tensor(str(value.dtype), value.shape, value.tobytes(), channels_last, requires_grad)


def from_wire(tensor: Tensor | None) -> np.ndarray | None:
    if tensor is None:
        return None
    return np.frombuffer(tensor.data, dtype=jnp.dtype(tensor.dtype)).reshape(tensor.shape)


def ask(judge: TorchJudge, question: Question) -> Verdict:
    arguments = tuple(
        to_wire(
            value, question.channels_last and i == 0, i in question.differentiated and question.cotangent is not None
        )
        for i, value in enumerate(question.arguments)
    )
    return judge.ask(Request(question.torch, arguments, to_wire(question.cotangent), question.mutated))


def answer(question: Question) -> tuple[Sequence[Any], Sequence[Any]]:
    """Our outputs and gradients, jitted; arguments that are not arrays are static."""
    arrays = {i: v for i, v in enumerate(question.arguments) if isinstance(v, np.ndarray)}
    wanted = tuple(i for i in question.differentiated if i in arrays and question.cotangent is not None)

    def call(arrays):
        outputs = question.ours(*(arrays.get(i, v) for i, v in enumerate(question.arguments)))
        return outputs if isinstance(outputs, tuple) else (outputs,)

    @jax.jit
    def run(arrays, cotangent):
        def first(differentiated):
            outputs = call(arrays | differentiated)
            return outputs[0], outputs

        y, pull, outputs = jax.vjp(first, {i: arrays[i] for i in wanted}, has_aux=True)
        gradients = pull(cotangent.astype(y.dtype))[0] if wanted else {}
        return outputs, [gradients[i] for i in wanted]

    return run(arrays, question.cotangent if wanted else np.zeros(()))


def assert_agrees(judge: TorchJudge, question: Question) -> None:
    """Both raise, with errors of the same kind, or both return the same.

    Where PyTorch takes the arguments but cannot differentiate (a bias without a weight, for instance, in group norm),
    the outputs alone are compared.
    """
    verdict = ask(judge, question)
    if verdict.error is not None and question.cotangent is not None:
        question = without_gradient(question)
        verdict = ask(judge, question)
    if verdict.error is not None:
        assert_same_kind(verdict, question)
        return
    outputs, gradients = answer(question)
    expected = [from_wire(v) for v in (*verdict.outputs, *verdict.mutated)]
    compute = compute_dtype(question.arguments[0].dtype)
    compare("output", outputs, expected, question.scales, compute, question.saved)
    expected = [from_wire(v) for v in verdict.gradients]
    rounded = str(question.arguments[0].dtype)  # PyTorch adds up the gradients of parameters in the input's dtype
    compare("gradient", gradients, expected, question.gradient_scales, compute, rounded)


def assert_same_kind(verdict: Verdict, question: Question) -> None:
    kinds = kinds_raised(question)
    assert verdict.error in kinds, f"PyTorch: {verdict.error}: {verdict.message}; ours: {kinds or 'returned'}"


def kinds_raised(question: Question) -> list[str]:
    """The names of the classes of the exception that our function raises; none where it returns."""
    try:
        answer(question)
    except Exception as error:
        return [kind.__name__ for kind in type(error).__mro__]
    return []


def compare(what: str, ours, theirs, scales: Sequence[Scale], compute: str, saved: str) -> None:
    assert len(ours) == len(theirs), f"{what}s: {len(ours)}, PyTorch has {len(theirs)}"
    for i, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        name = f"{what} {i}"
        if other is None:
            assert mine is None, f"{name}: PyTorch has None"
            continue
        assert str(mine.dtype) == str(other.dtype), f"{name}: dtype {mine.dtype}, PyTorch has {other.dtype}"
        assert mine.shape == other.shape, f"{name}: shape {mine.shape}, PyTorch has {other.shape}"
        if other.size and other.dtype != np.uint8:
            tolerance = scales[i].tolerance(other, compute, saved)
            mine, other = np.asarray(mine, np.float64), other.astype(np.float64)
            np.testing.assert_allclose(mine, other, rtol=0, atol=tolerance, err_msg=name)


def without_gradient(question: Question) -> Question:
    return replace(question, cotangent=None, differentiated=(), gradient_scales=())
