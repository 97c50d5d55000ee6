"""The oldest of what the package and its tests ask for, as pip takes it: `name==version` of each lower bound.

JAX and what comes in step with it are left to pip: there is an interpreter for each supported release.
"""

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
STEPS = ("jax",)


def pins() -> list[str]:
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(one for one in project["optional-dependencies"]["test"] if "pytest" in one)]
    bounds = (re.match(r"([\w-]+)>=([\w.]+)", one) for one in wanted)
    return [f"{bound[1]}=={bound[2]}" for bound in bounds if bound and bound[1] not in STEPS]


if __name__ == "__main__":
    print(" ".join(pins()))
