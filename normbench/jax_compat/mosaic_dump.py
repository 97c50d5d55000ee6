"""What Mosaic GPU makes of a kernel: its PTX and the call that launches it, which XLA's own dump lacks."""

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

_PRINTED = {"MOSAIC_GPU_DUMP_PTX": "1", "MOSAIC_GPU_DUMP_HOST_LLVM": "1"}
"""Of the two, the first prints the PTX of a kernel, the second the host's LLVM module, whose call has grid and block.
`MOSAIC_GPU_DUMP_TO` would write files, and every stage of the compiler with them: megabytes, in a second."""


@contextlib.contextmanager
def mosaic_dump(path: Path) -> Iterator[None]:
    """Collects in `path` what is compiled meanwhile; a kernel that this process has compiled before is not told again.

    The compiler prints on the process's standard output, descriptor 1, which leads into the file meanwhile.
    """
    before = {name: os.environ.get(name) for name in _PRINTED}
    libc = ctypes.CDLL(None)
    libc.fflush(None)
    standard_output = os.dup(1)
    with path.open("wb") as file:
        os.environ.update(_PRINTED)
        os.dup2(file.fileno(), 1)
        try:
            yield
        finally:
            libc.fflush(None)
            os.dup2(standard_output, 1)
            os.close(standard_output)
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
