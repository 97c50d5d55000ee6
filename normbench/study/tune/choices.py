"""Which block sizes a device is told to take: what was timed, stored beside what rests on it.

The search times every candidate with a cold cache, in turns, because a warm one prefers other blocks than those that
win when the data comes from device memory. `normbench.kernels.pallas.tuning` has what was found.
"""

import json
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from normbench.errors import UserError
from normbench.kernels.pallas.tuning import FOLDER, Choice, load, path_of, stored


def chosen(device: str, key: str, folder: Path = FOLDER) -> Choice | None:
    """The stored choice, or None where the problem is untuned on this device."""
    return load(device, folder).get(key)


def note(device: str, key: str, folder: Path = FOLDER) -> str:
    """One sentence: what the configuration of a problem rests on."""
    choice = chosen(device, key, folder)
    if choice is None:
        return f"untuned: nothing is stored for {key} on {device}; the block sizes are those of the heuristic"
    gain = choice.heuristic_s / choice.median_s
    return f"tuned on {device}: best of {choice.candidates}, {gain:.2f} times as fast as the heuristic"


def search(
    key: str,
    candidates: Mapping[str, tuple[Mapping[str, Any], Callable[[], float]]],
    heuristic: str,
    rounds: int = 9,
    seed: int = 0,
) -> Choice:
    """Times the candidates and returns the best.

    Args:
      key: of the problem.
      candidates: by name, the configuration and a function that runs it once with a cold cache and returns seconds.
      heuristic: the name of the candidate that the heuristic would have taken.
      rounds: in each, every candidate is timed once, in random order, so that drift meets all alike.
      seed: of the order.
    """
    if heuristic not in candidates:
        raise UserError(f"the heuristic's candidate {heuristic!r} is not among those to tune: {', '.join(candidates)}")
    order = random.Random(seed)
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name in order.sample(list(candidates), len(candidates)):
            seconds[name].append(candidates[name][1]())
    medians = {name: statistics.median(samples) for name, samples in seconds.items()}
    best = min(medians, key=medians.__getitem__)
    return Choice(key, dict(candidates[best][0]), medians[best], medians[heuristic], len(candidates))


def store(device: str, choices: Sequence[Choice], environment: Mapping[str, Any], folder: Path = FOLDER) -> Path:
    """Adds the choices to the file of the device, which is replaced as a whole."""
    known = {**load(device, folder), **{choice.key: choice for choice in choices}}
    rows = {key: {k: v for k, v in asdict(choice).items() if k != "key"} for key, choice in sorted(known.items())}
    path = path_of(device, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"device": device, "environment": dict(environment), "choices": rows}, indent=1))
    temporary.replace(path)
    stored.cache_clear()
    return path
