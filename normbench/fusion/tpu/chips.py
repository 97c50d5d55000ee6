"""The TPUs that a program can be compiled for, each as one device of JAX.

A device is a whole chip, but for TPU7x, of whose two halves each is a device of its own. v4 and v5p have two
TensorCores that work as one (megacore).

Sources, by letter in the comments:

| letter | source |
|--------|--------|
| G | Google's page of the TPU: cloud.google.com/tpu/docs/v5e, /v5p, /v6e; /v4 for 32 GiB and 1.2 TB/s, rounded |
| J | JAX's own table, jax/_src/pallas/mosaic/tpu_info.py of jax 0.10.2, which has figures of one TensorCore |
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """One device; sizes in bytes.

    Attributes:
      name: of the target, and of the chip in libtpu's topologies.
      device_kind: as JAX spells it.
      cores: TensorCores of a device.
      axes: of the torus that its chips form.
      devices_each: devices of a chip.
      memory_bytes, memory_bytes_per_s: of HBM.
      vector_bytes: of VMEM, of all its TensorCores.
      products_per_s: operations of matrix products in bfloat16 per second.
    """

    name: str
    device_kind: str
    cores: int
    axes: int
    devices_each: int
    memory_bytes: int
    memory_bytes_per_s: float
    vector_bytes: int
    products_per_s: float

    @property
    def megacore(self) -> bool:
        return self.cores > 1 and self.name == "v4"  # which libtpu splits unless it is told not to

    def slice_of(self, devices: int) -> tuple[int, ...]:
        """Chips along each axis of the smallest slice that has so many devices, from 2 x 2 on: 2x2, 2x4, 4x4, ..."""
        sizes = [2, 2, 1][: self.axes]
        while math.prod(sizes) * self.devices_each < devices:
            smallest = min(range(self.axes), key=lambda axis: (sizes[axis], -axis))
            sizes[smallest] *= 2
        return tuple(sorted(sizes)) if sizes[-1] > 1 else tuple(sizes)


_GIB, _MIB = 2**30, 2**20

CHIPS = {
    chip.name: chip
    for chip in (
        Chip(
            name="v4",
            device_kind="TPU v4",
            cores=2,  # J
            axes=3,
            devices_each=1,
            memory_bytes=32 * _GIB,  # G
            memory_bytes_per_s=1.23e12,  # J
            vector_bytes=2 * 16 * _MIB,  # J
            products_per_s=2.75e14,  # J
        ),
        Chip(
            name="v5e",
            device_kind="TPU v5 lite",
            cores=1,  # G
            axes=2,
            devices_each=1,
            memory_bytes=16 * 10**9,  # G
            memory_bytes_per_s=8.19e11,  # G
            vector_bytes=128 * _MIB,  # J
            products_per_s=1.97e14,  # G
        ),
        Chip(
            name="v5p",
            device_kind="TPU v5",
            cores=2,  # G
            axes=3,
            devices_each=1,
            memory_bytes=95 * _GIB,  # G
            memory_bytes_per_s=2.765e12,  # G
            vector_bytes=2 * 64 * _MIB,  # J
            products_per_s=4.59e14,  # G
        ),
        Chip(
            name="v6e",
            device_kind="TPU v6 lite",
            cores=1,  # G
            axes=2,
            devices_each=1,
            memory_bytes=32 * 10**9,  # G
            memory_bytes_per_s=1.638e12,  # G
            vector_bytes=128 * _MIB,  # J
            products_per_s=9.18e14,  # G
        ),
        Chip(
            name="tpu7x",
            device_kind="TPU7x",
            cores=1,  # J
            axes=3,
            devices_each=2,
            memory_bytes=206 * 10**9 // 2,  # J
            memory_bytes_per_s=7.4e12 / 2,  # J
            vector_bytes=64 * _MIB,  # J
            products_per_s=2.31e15 / 2,  # J
        ),
    )
}
