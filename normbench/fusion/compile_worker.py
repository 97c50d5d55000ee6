"""A process that compiles for whoever asks, so that an aborting compiler takes nobody along.

It reads jobs (bytecode, target, lower_s) from its standard input and answers with ("ok", Compilation) or
("failed" | "bad input", reason) on the descriptor named by its argument; both as frames of an eight-byte length and a
pickle. Its standard output is left to libraries that print.
"""

import os
import pickle
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
            answer = ("failed", f"{type(error).__name__}: {error}")
        send(answers, answer)


if __name__ == "__main__":
    serve(sys.stdin.buffer, os.fdopen(int(sys.argv[1]), "wb"))
