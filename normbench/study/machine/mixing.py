"""Whether a study may go on here: what differs between the environment in which it was begun and this one."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

PACKAGES = (
    "jax",
    "jaxlib",
    "jax-cuda13-plugin",
    "jax-cuda13-pjrt",
    "numpy",
    "ml-dtypes",
    "pytensor",
    "torch",
    "triton",
)
"""What compiles, computes or checks."""


def facts(environment: Mapping[str, Any]) -> dict[str, Any]:
    """What times and programs depend on, by name; None where the record does not tell."""
    packages, cpu = environment.get("packages") or {}, environment.get("cpu") or {}
    found = {name: environment.get(name) for name in ("normbench", "python", "cpu_model", "nvidia_driver")}
    gpus = environment.get("gpu_models")
    return {
        **found,
        "GPU": ", ".join(gpus) if gpus else None if gpus is None else "none",
        "architecture": cpu.get("architecture"),
        "usable cores": cpu.get("usable_cores"),
        "revision": (environment.get("git") or {}).get("revision"),
        **{name: packages.get(name) or "absent" for name in PACKAGES if packages},
        **{f"variable {name}": value for name, value in (environment.get("variables") or {}).items()},
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Each fact that differs, in words: "jax was 0.10.2 and is 0.11.2"; what the earlier record does not tell is
    passed over, but for variables."""
    left, right = facts(before), facts(now)
    names = [name for name in dict.fromkeys((*left, *right)) if left.get(name) != right.get(name)]
    told = [name for name in names if left.get(name) is not None or name.startswith("variable ")]
    return [f"{name} was {left.get(name) or 'not set'} and is {right.get(name) or 'not set'}" for name in told]


def key(environment: Mapping[str, Any]) -> str:
    """A short name of an environment, the same for the same facts."""
    return hashlib.sha256(json.dumps(facts(environment), sort_keys=True).encode()).hexdigest()[:12]
