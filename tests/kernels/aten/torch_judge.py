"""PyTorch as the judge, in a process of its own: two of its normalization calls crash, and a crash must not end pytest.

`TorchJudge` starts this file as a worker and sends it pickled requests over a pipe. A request names a function, as
`module:attribute.path`, and its arguments; arrays travel as (dtype name, shape, bytes).
"""

import os
import pickle
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

TORCH = "torch"
ATEN = "torch:ops.aten"
NN = "torch.nn.functional"
DECOMPOSITIONS = "torch._decomp.decompositions"


class JudgeCrashed(Exception):
    """PyTorch ended the worker; the message says which request did it. The next request starts a new worker."""


@dataclass(frozen=True)
class Tensor:
    """An array on its way between the processes; `bytes` in C order."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes
    channels_last: bool = False
    requires_grad: bool = False


@dataclass(frozen=True)
class Request:
    """`function` called with `arguments`; `cotangent` of its first output asks for the gradients of the tensors that
    require them; `mutated` are the positions of the arguments whose values after the call are wanted."""

    function: str
    arguments: tuple[Any, ...]
    cotangent: Tensor | None = None
    mutated: tuple[int, ...] = ()
    tangents: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What PyTorch returned or raised. Absent tensors are None; `error` is the name of the exception's class."""

    outputs: tuple[Tensor | None, ...] = ()
    gradients: tuple[Tensor | None, ...] = ()
    mutated: tuple[Tensor, ...] = ()
    seconds: tuple[Tensor | None, ...] = ()
    error: str | None = None
    message: str = ""


@dataclass
class TorchJudge:
    """A worker that answers requests one at a time."""

    python: str = sys.executable
    worker: subprocess.Popen | None = field(default=None, init=False)

    def available(self) -> bool:
        probe = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)"
        return subprocess.run([self.python, "-c", probe], check=False).returncode == 0

    def ask(self, request: Request) -> Verdict:
        if self.worker is None:
            self.worker = subprocess.Popen(
                [self.python, os.path.abspath(__file__)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        try:
            pickle.dump(_to_plain(request), self.worker.stdin)
            self.worker.stdin.flush()
            return _verdict(pickle.load(self.worker.stdout))
        except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
            status = self.worker.wait()
            self.worker = None
            raise JudgeCrashed(f"the worker ended with status {status} in {request.function}") from error

    def close(self) -> None:
        if self.worker is not None:
            self.worker.stdin.close()
            self.worker.wait()
            self.worker = None


def _plain_tensor(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return ("tensor", value.dtype, value.shape, value.data, value.channels_last, value.requires_grad)


def _to_plain(request: Request) -> tuple:
    arguments = tuple(_plain_tensor(v) for v in request.arguments)
    tangents = tuple(_plain_tensor(v) for v in request.tangents)
    return request.function, arguments, _plain_tensor(request.cotangent), request.mutated, tangents


def _verdict(plain: tuple) -> Verdict:
    *groups, error, message = plain
    tensors = (tuple(None if v is None else Tensor(*v) for v in group) for group in groups)
    return Verdict(*tensors, error=error, message=message)


def _serve() -> None:
    """The worker's loop. PyTorch's own prints must not reach the pipe, so stdout is moved away first."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    import torch

    torch.set_num_threads(1)
    while True:
        try:
            request = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = (*_call(torch, *request), None, "")
        except Exception as error:
            answer = ((), (), (), (), type(error).__name__, str(error))
        pickle.dump(answer, answers)
        answers.flush()


def _call(
    torch: Any, function: str, arguments: tuple, cotangent: tuple | None, mutated: tuple[int, ...], tangents: tuple
) -> tuple:
    values = [_decode(torch, v) if isinstance(v, tuple) and v and v[0] == "tensor" else v for v in arguments]
    outputs = _resolve(function)(*values)
    outputs = tuple(outputs) if isinstance(outputs, tuple | list) else (outputs,)
    gradients: tuple = ()
    seconds: tuple = ()
    if cotangent is not None:
        wanted = [v for v in values if isinstance(v, torch.Tensor) and v.requires_grad]
        dy = _decode(torch, cotangent)
        twice = bool(tangents)
        if twice:
            dy.requires_grad_()
        gradients = torch.autograd.grad(outputs[0], wanted, dy, allow_unused=True, create_graph=twice)
        if twice:
            weights = [_decode(torch, v) for v in tangents]
            seconds = torch.autograd.grad(gradients, [*wanted, dy], weights, allow_unused=True)
    changed = [values[i] for i in mutated]
    return tuple([_encode(torch, v) for v in group] for group in (outputs, gradients, changed, seconds))


def _resolve(name: str) -> Any:
    module, _, path = name.partition(":")
    target = __import__(module, fromlist=["_"])
    for part in path.split("."):
        target = getattr(target, part)
    return target


def _decode(torch: Any, plain: tuple) -> Any:
    _, dtype, shape, data, channels_last, requires_grad = plain
    kind = getattr(torch, dtype)
    value = torch.frombuffer(bytearray(data), dtype=kind) if data else torch.empty(0, dtype=kind)
    value = value.reshape(shape)
    if channels_last and len(shape) in (4, 5):
        value = value.contiguous(memory_format=torch.channels_last if len(shape) == 4 else torch.channels_last_3d)
    return value.requires_grad_() if requires_grad else value


def _encode(torch: Any, value: Any) -> tuple | None:
    if value is None or not isinstance(value, torch.Tensor):
        return None
    flat = value.detach().contiguous().reshape(-1)
    data = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    return str(value.dtype).removeprefix("torch."), tuple(value.shape), data


if __name__ == "__main__":
    _serve()
