"""A process that compiles for whoever asks, so that an aborting compiler takes nobody along.

It reads jobs (bytecode, target, lower_s) from its standard input and answers with ("ok", Compilation) or
("failed" | "bad input", reason) on the descriptor named by its argument; both as frames of an eight-byte length and a
pickle. Its standard output is left to libraries that print.
"""

import os
import pickle
import re
import struct
import sys
from typing import Any, BinaryIO

_LENGTH = struct.Struct("<Q")


def send(stream: BinaryIO, message: Any) -> None:
    """Writes one frame."""
    data = pickle.dumps(message)
    stream.write(_LENGTH.pack(len(data)) + data)
    stream.flush()


def receive(stream: BinaryIO) -> Any:
    """Reads one frame.

    Raises:
      EOFError: where the other side is gone.
    """
    (length,) = _LENGTH.unpack(_exactly(stream, _LENGTH.size))
    return pickle.loads(_exactly(stream, length))


def _exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if data is None or len(data) < size:
        raise EOFError
    return data


def serve(jobs: BinaryIO, answers: BinaryIO) -> None:
    """Answers jobs until there are no more."""
    from normbench.errors import UserError
    from normbench.fusion.compilation import compile_bytecode_for

    while True:
        try:
            bytecode, target, lower_s = receive(jobs)
        except EOFError:
            return
        answer: tuple[str, Any]
        try:
            answer = ("ok", compile_bytecode_for(bytecode, target, lower_s))
        except UserError as error:
            answer = ("bad input", str(error))
        except Exception as error:
            status = "unknown call" if _CUSTOM_CALL.search(str(error)) else "failed"
            answer = (status, failure(error))
        send(answers, answer)


_CUSTOM_CALL = re.compile(
    r"No FFI handler registered for (\S+)|No registered implementation for .*?custom call to (\S+)"
)


def failure(error: Exception) -> str:
    """The reason of a failed compilation in one line; what the compiler adds to it, pages of HLO, is left out."""
    text = str(error)
    custom_call = _CUSTOM_CALL.search(text)
    if custom_call:
        name = next(group for group in custom_call.groups() if group)
        return (
            f"the compiler here knows no custom call {name!r}: whatever registers it has to be installed with the CUDA "
            "compiler, so its program can only be compiled where it runs"
        )
    line = next(iter(text.splitlines()), "")
    return f"{type(error).__name__}: {line[:300]}"


if __name__ == "__main__":
    serve(sys.stdin.buffer, os.fdopen(int(sys.argv[1]), "wb"))
