"""Modules of the user's own: kernels that register variants, functions to explain."""

import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from normbench.errors import UserError


def import_modules(names: Sequence[str], folder: str | None = None) -> None:
    """Imports modules that may register variants.

    Args:
      folder: the current one of the process that first imported them: what is not found here may lie there.

    Raises:
      UserError: where one cannot be imported.
    """
    if names and folder is not None and folder not in sys.path:
        sys.path.append(folder)  # and so the workers find them: see `normbench.start`
    for name in names:
        import_module(name)


def import_module(name: str) -> ModuleType:
    """Imports a module by its dotted name; the current folder is searched first, as `python -m` does.

    The folder then stays at the end of the path: what such a module imports later is found, and nothing that lies in
    the folder gets in the way of an installed package.

    Raises:
      UserError: where it cannot be imported.
    """
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"module {name!r} cannot be imported: {error}") from error
    except (Exception, SystemExit) as error:  # whatever the module does when it is imported
        line = next(iter(str(error).splitlines()), "")
        raise UserError(f"module {name!r} cannot be imported: {type(error).__name__}: {line}") from error
    finally:
        sys.path.remove(here)
        if here not in sys.path:
            sys.path.append(here)
