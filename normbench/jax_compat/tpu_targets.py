"""Compiling for TPUs that are not there, through the topologies of `libtpu`, which JAX's extra `tpu` brings."""

import os
from collections.abc import Sequence
from typing import Any

import jax

_CORES = {"TPU v4": 2, "TPU v5": 2}
"""TensorCores that JAX sees as one device, by its kind; one where it is not named."""
_QUIET = {
    "TPU_SKIP_MDS_QUERY": "1",  # asks no server for the machine's own TPU
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # of the machine, were it one: left out, libtpu warns that it is not told
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # a compiler needs no device to itself, as several processes may run at once
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}


def absent_tpu_client(chip: str, shape: Sequence[int], megacore: bool) -> Any:
    """A client that compiles for the TPUs of a slice that need not be there.

    Args:
      chip: as libtpu's topologies spell it: "v6e".
      shape: chips along each axis of the slice.
      megacore: whether the two TensorCores of a chip are one device where the chip leaves the choice.

    Raises:
      ImportError: where libtpu is not installed, or does not fit this JAX.
    """
    from jax.experimental import topologies

    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    more = {"chip_config_name": "megacore"} if megacore else {}
    name = f"{chip}:{'x'.join(str(size) for size in shape)}"
    try:
        topology = topologies.get_topology_desc(topology_name=name, platform="tpu", **more)
    except Exception as error:  # its absence shows as RuntimeError or NotImplementedError, another one's in its own way
        raise ImportError(f"JAX has no compiler for TPUs here: {error}") from error
    device: Any = topology.devices[0]
    return device.client


def absent_device(device_kind: str) -> Any:
    """What a `jax.sharding.AbstractMesh` says of its devices, a GPU's or a TPU's by the vendor's spelling."""
    if device_kind.startswith("TPU"):
        return jax.sharding.AbstractDevice(
            device_kind=device_kind, num_cores=_CORES.get(device_kind, 1), platform="tpu"
        )
    return jax.sharding.AbstractDevice(device_kind=device_kind, num_cores=None, platform="gpu")
