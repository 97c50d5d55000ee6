"""Writes the patch that would bring batch normalization to PyTensor itself, and needs nothing of normbench.

    git clone https://github.com/pymc-devs/pytensor
    python upstream/write_patch.py pytensor > batchnorm.patch     # the checkout is left as it was
    python upstream/write_patch.py pytensor --apply               # or the files are put into it
    cd pytensor; pytest tests/tensor/test_batchnorm.py tests/link/{jax,numba,pytorch}/test_batchnorm.py

The new files lie in upstream/pytensor as they are to be; a line is added to each module that imports its like.
"""

import argparse
import subprocess
import sys
from pathlib import Path

FILES = Path(__file__).parent / "pytensor"
IMPORTS = {
    "pytensor/link/jax/dispatch/__init__.py": "import pytensor.link.jax.dispatch.batchnorm\n",
    "pytensor/link/numba/dispatch/__init__.py": "import pytensor.link.numba.dispatch.batchnorm\n",
    "pytensor/link/pytorch/dispatch/__init__.py": "import pytensor.link.pytorch.dispatch.batchnorm\n",
    "pytensor/tensor/rewriting/__init__.py": "import pytensor.tensor.rewriting.batchnorm\n",
}
"""By module the line that it gets, before its first line of that kind."""


def changed_files(checkout: Path) -> dict[str, str]:
    """By path in the checkout the text that the file is to have."""
    found = {str(path.relative_to(FILES)): path.read_text() for path in sorted(FILES.rglob("*.py"))}
    for name, line in IMPORTS.items():
        text = (checkout / name).read_text()
        if line not in text:
            start = line[: line.rindex(".") + 1]
            place = text.index(start)
            text = text[:place] + line + text[place:]
        found[name] = text
    return found


def patch(checkout: Path, files: dict[str, str]) -> str:
    """The difference to the checkout's files, as `git apply` takes it."""
    parts = []
    for name, text in files.items():
        old = checkout / name
        if old.exists() and old.read_text() == text:
            continue
        source = str(old) if old.exists() else "/dev/null"
        command = ["git", "diff", "--no-index", "--no-color", "--", source, "-"]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        body = done.stdout[done.stdout.index("@@") :]
        kind = "" if old.exists() else "new file mode 100644\n"
        before = f"a/{name}" if old.exists() else "/dev/null"
        parts.append(f"diff --git a/{name} b/{name}\n{kind}--- {before}\n+++ b/{name}\n{body}")
    return "".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="a checkout of pymc-devs/pytensor")
    parser.add_argument("--apply", action="store_true", help="write the files into the checkout")
    arguments = parser.parse_args()
    checkout = arguments.checkout
    missing = [name for name in IMPORTS if not (checkout / name).is_file()]
    if missing:
        print(f"{checkout} is no checkout of PyTensor: it has no {missing[0]}", file=sys.stderr)
        return 2
    files = changed_files(checkout)
    if not arguments.apply:
        print(patch(checkout, files), end="")
        return 0
    for name, text in files.items():
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
