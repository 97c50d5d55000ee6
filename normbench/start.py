"""Starts a module of this package in a process of its own, the same from every folder and whatever lies in it.

`python -m` would put the current directory before everything else: a project's own `queue.py` or `normbench/` would be
imported in place of what the process needs. Here the child finds this very package first, then its interpreter's own
paths, and after them what else its parent could import (a user's modules, the current directory).
"""

import os
import runpy
import sys
from pathlib import Path

_PATHS = "NORMBENCH_PATHS"


def command(module: str, *arguments: str) -> list[str]:
    """The command line that runs `module` of this package with `arguments`."""
    return [sys.executable, "-P", str(Path(__file__).resolve()), module, *arguments]


def environment() -> dict[str, str]:
    """What the child has to find in its environment, to be added to the parent's."""
    return {_PATHS: os.pathsep.join(os.path.abspath(path) for path in sys.path)}


def _run(module: str) -> None:
    root = str(Path(__file__).resolve().parents[1])
    sys.path.insert(0, root)
    import normbench  # noqa: F401  (from here on its modules are found beside this file)

    sys.path.remove(root)
    known = set(sys.path)
    sys.path += [path for path in os.environ.get(_PATHS, "").split(os.pathsep) if path and path not in known]
    sys.argv = sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _run(sys.argv[1])
