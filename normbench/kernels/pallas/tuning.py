"""Choices of block sizes that were measured on a device, stored as data.

results/tuning/<device>.json: {"device", "environment", "choices": {key: {"config", "median_s", "candidates", ...}}}.
A kernel asks `tuned` for its configuration; where nothing is stored for the device that is present, it gets that of its
heuristic. `normbench.study.tune` makes them.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import jax

from normbench.errors import UserError

FOLDER = Path(__file__).resolve().parents[3] / "results" / "tuning"

_TRIED: ContextVar[Mapping[str, Mapping[str, Any]] | None] = ContextVar("tried", default=None)
_ASKED: ContextVar[dict[str, Any] | None] = ContextVar("asked", default=None)

Config = TypeVar("Config")


@dataclass(frozen=True, slots=True)
class Choice:
    """What was found for one problem.

    Attributes:
      key: kernel, pass, sizes, dtypes: see `problem_key`.
      config: fields of the kernel's configuration, by name.
      median_s: seconds of the winner.
      heuristic_s: seconds of the configuration that the heuristic would have taken.
      candidates: how many were timed.
    """

    key: str
    config: dict[str, Any]
    median_s: float
    heuristic_s: float
    candidates: int


def problem_key(kernel: str, sizes: Sequence[int], *others: str) -> str:
    """E.g. "layer_norm.forward 8192x4096 bfloat16"."""
    return " ".join([kernel, "x".join(map(str, sizes)), *others])


def tuned(config: Config, key: str) -> Config:
    """The configuration with what is being tried for this problem, or else with what is stored for the device."""
    asked_for = _ASKED.get()
    if asked_for is not None:
        asked_for[key] = config
    fields = (_TRIED.get() or {}).get(key)
    if fields is None:
        choice = stored(_present()).get(key)
        fields = choice.config if choice else {}
    return replace(config, **fields)  # type: ignore[type-var]


@contextmanager
def trying(key: str, fields: Mapping[str, Any]) -> Iterator[None]:
    """Inside it, `tuned` takes these fields for the problem; what is traced there is compiled with them."""
    token = _TRIED.set({**(_TRIED.get() or {}), key: fields})
    try:
        yield
    finally:
        _TRIED.reset(token)


@contextmanager
def asked() -> Iterator[dict[str, Any]]:
    """Collects by key the heuristic's configurations of the kernels that are traced inside it."""
    found: dict[str, Any] = {}
    token = _ASKED.set(found)
    try:
        yield found
    finally:
        _ASKED.reset(token)


def _present() -> str | None:
    """The GPU of this process, as it calls itself; None where there is none."""
    return jax.devices()[0].device_kind if jax.default_backend() == "gpu" else None


@cache
def stored(device: str | None) -> dict[str, Choice]:
    """`load`, once in a process."""
    return load(device) if device else {}


def path_of(device: str, folder: Path = FOLDER) -> Path:
    """The file of a device, e.g. "NVIDIA H200" -> nvidia-h200.json."""
    return folder / f"{re.sub(r'[^a-z0-9]+', '-', device.lower()).strip('-')}.json"


def load(device: str, folder: Path = FOLDER) -> dict[str, Choice]:
    """The stored choices of a device by key; empty where it was never tuned.

    Raises:
      UserError: for a damaged file.
    """
    path = path_of(device, folder)
    if not path.exists():
        return {}
    try:
        stored = json.loads(path.read_text())["choices"]
        return {key: Choice(key=key, **choice) for key, choice in stored.items()}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: {error}; tune the device again, or restore the file") from error
