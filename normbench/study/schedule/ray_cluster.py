"""The Ray cluster that a study runs on: whether it answers, what its nodes are, and whether they have our versions."""

import importlib.util
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import normbench
from normbench.errors import UserError
from normbench.study.machine.environment import environment

ANSWER_S = 25.0
"""A cluster that has not let us in by then is stale."""
PROBE_S = 300.0
"""For a node to fetch this package, to start a process and to look at its versions."""
MUST_AGREE = ("jax", "jaxlib", "jax-cuda13-plugin", "jax-cuda13-pjrt", "numpy", "ml-dtypes")


@dataclass(frozen=True)
class Node:
    """A node of the cluster.

    Attributes:
      id: Ray's.
      host: what rows call it: its name, with the start of its id where several nodes have the same name.
      cpus, gpus: that it lends.
      environment: its record, as in run.json.
    """

    id: str
    host: str
    cpus: int
    gpus: int
    environment: dict[str, Any]


def require_ray() -> Any:
    """Raises UserError where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise UserError(
            "executor 'ray' needs Ray, which is not installed; install it with: pip install 'normbench[ray]'"
        )
    import ray

    return ray


def connect(imports: Sequence[str] = ()) -> tuple[Node, ...]:
    """Joins the cluster at `RAY_ADDRESS`, or the one that runs on this machine, and looks at each of its nodes.

    The nodes get this very package and the modules in `imports` with the job (Ray's `runtime_env`), the rest of what is
    needed has to be installed there. A process that has joined a cluster already uses what is installed.

    Raises:
      UserError: where Ray is not installed, no cluster answers, or a node has other versions than we.
    """
    ray = require_ray()
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS") or "auto"
        _require_answer(address)
        sent = {"py_modules": _packages(imports), "excludes": ["**/__pycache__"]}
        try:
            ray.init(address=address, runtime_env=sent, log_to_driver=False, logging_level="ERROR")
        except Exception as error:
            raise _unreachable(address, error) from error
    return _probe(ray)


def _require_answer(address: str) -> None:
    """Joins in a process of its own first: where a cluster is stale, Ray waits for long or ends its process."""
    code = f"import ray; ray.init(address={address!r}, log_to_driver=False, logging_level='ERROR'); ray.nodes()"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        errors="replace", start_new_session=True,
    )  # fmt: skip
    try:
        _, errors = process.communicate(timeout=ANSWER_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise _unreachable(address, f"no answer in {ANSWER_S:g} s") from None
    if process.returncode:
        raise _unreachable(address, ([line for line in errors.splitlines() if line.strip()] or ["no reason"])[-1])


def _unreachable(address: str, reason: Any) -> UserError:
    where = "on this machine" if address == "auto" else f"at RAY_ADDRESS {address!r}"
    words = " ".join(str(reason).split())[:200]
    return UserError(f"no Ray cluster answers {where} ({words}); start one with: ray start --head")


def _packages(imports: Sequence[str]) -> list[str]:
    """This package and the user's modules, which have been imported: files and folders."""
    found = [str(Path(normbench.__file__).parent)]
    for name in imports:
        module = sys.modules[name.partition(".")[0]]
        file = getattr(module, "__file__", None)
        if file is None:
            found += [str(path) for path in getattr(module, "__path__", ())][:1]
        else:
            found.append(str(Path(file).parent if Path(file).name == "__init__.py" else file))
    return list(dict.fromkeys(found))


def _probe(ray: Any) -> tuple[Node, ...]:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    alive = [node for node in ray.nodes() if node["Alive"]]
    look = ray.remote(num_cpus=0, max_retries=0)(_look)
    asked = [
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote()
        for node in alive
    ]
    here, found = environment(), []
    names: Counter[str] = Counter()
    for node, answer in zip(alive, asked, strict=True):
        try:
            record = ray.get(answer, timeout=PROBE_S)
        except Exception as error:
            words = " ".join(str(error).split())[-300:]
            raise UserError(f"Ray node {node['NodeManagerAddress']} cannot run normbench: {words}") from error
        _check_versions(here, record, node["NodeManagerAddress"])
        names[record["host"]] += 1
        found.append((node, record))
    return tuple(
        _node(node, record, record["host"] if names[record["host"]] == 1 else f"{record['host']}-{node['NodeID'][:8]}")
        for node, record in found
    )


def _node(node: dict[str, Any], record: dict[str, Any], host: str) -> Node:
    lends = node["Resources"]
    return Node(node["NodeID"], host, int(lends.get("CPU", 0)), int(lends.get("GPU", 0)), {**record, "host": host})


def _look() -> dict[str, Any]:
    """In a task: the record of the node that it runs on."""
    return environment()


def _check_versions(here: dict[str, Any], there: dict[str, Any], address: str) -> None:
    pairs = {name: (here["packages"].get(name), there["packages"].get(name)) for name in MUST_AGREE}
    pairs["normbench"] = (here["normbench"], there["normbench"])
    wrong = [f"{name} {theirs or 'missing'} (here {ours or 'missing'})" for name, (ours, theirs) in pairs.items()
             if ours != theirs]  # fmt: skip
    if wrong:
        raise UserError(f"Ray node {address} has other versions: {', '.join(wrong)}; install the same on all nodes")
