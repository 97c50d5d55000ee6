"""What the model of time knows of devices, one place for all of it.

Sources, by letter in the comments:

| letter | source |
|--------|--------|
| D | the vendor's datasheet of the device |
| T | the target description beside the package, as XLA writes it on the device (`normbench/fusion/targets/*.txtpb`) |
| X | XLA's own cost model (`xla/service/gpu/model/gpu_performance_model_base.cc`, `AdjustBandwidth`) |
| G | CUDA C++ Programming Guide, table of technical specifications per compute capability |
| S | shaped: chosen so that the model follows the published times of Liger-Kernel's benchmarks |
| A | assumed to be as on the device before; nothing published was found that would tell |
| N | the user guide of the machine (DGX H100: one ConnectX-7 for each device) and NVIDIA's of the card (400 Gb/s) |
| U | not checked against the datasheet: listings by others were seen for 16 bits, and for 8 on Hopper and Blackwell |
"""

from dataclasses import dataclass, replace

from normbench.fusion.targets import Target


@dataclass(frozen=True)
class Device:
    """One device; bytes and seconds, cycles of a multiprocessor.

    Attributes:
      name: as the vendor spells it.
      clock_hz: of a multiprocessor under load.
      multiprocessors: number of them.
      memory_bytes_per_s: of device memory, by datasheet.
      attained: share of it that a long streaming kernel attains.
      l2_bytes, l2_bytes_per_s: capacity and bandwidth of the last-level cache.
      port_bytes_per_cycle: that one multiprocessor exchanges with the last-level cache.
      shared_bytes, shared_bytes_per_cycle: shared memory of a multiprocessor, and what it moves.
      registers, warps, blocks: of a multiprocessor at once.
      issue_per_cycle: warp instructions that a multiprocessor issues, of its four schedulers together.
      memory_cycles: until a load from device memory has arrived, under load.
      l2_cycles, l1_cycles, shared_cycles: the same from the caches and from shared memory.
      bulk_cycles: that a bulk copy takes more than a load.
      bulk_bytes_per_cycle: that the bulk copies of one multiprocessor move.
      store_cycles: until a bulk store has been written; store_read_cycles: until its source may be reused.
      launch_s: from one kernel's end to where the next one's blocks run.
      products_per_s: operations of matrix products per second by the bits of an element.
      link_bytes_per_s: that the device sends to others over its interconnect, one way.
      network_bytes_per_s: that its network card sends to other machines.
      assumed: whether its caches, latencies and what it attains are another device's: no published figure tells them.
    """

    name: str
    clock_hz: float
    multiprocessors: int
    memory_bytes_per_s: float
    attained: float
    l2_bytes: int
    l2_bytes_per_s: float
    shared_bytes: int
    memory_cycles: float
    products_per_s: dict[int, float]
    link_bytes_per_s: float
    network_bytes_per_s: float
    port_bytes_per_cycle: float = 32.0  # X
    shared_bytes_per_cycle: float = 128.0  # G: 32 banks of 4 bytes
    registers: int = 65536  # T, G
    warps: int = 64  # G
    blocks: int = 32  # G
    issue_per_cycle: float = 4 * 0.8  # G: four schedulers; S: each issues in 4 of 5 cycles
    l2_cycles: float = 270.0  # S
    l1_cycles: float = 40.0  # S
    shared_cycles: float = 30.0  # S
    bulk_cycles: float = 180.0  # S
    bulk_bytes_per_cycle: float = 48.0  # S
    store_cycles: float = 750.0  # S
    store_read_cycles: float = 450.0  # S
    launch_s: float = 2.0e-6  # S
    assumed: bool = False


_H100 = Device(
    name="NVIDIA H100 80GB HBM3",
    clock_hz=1.755e9,  # S: below the 1.98e9 of T, which is the highest
    multiprocessors=132,  # T
    memory_bytes_per_s=3.352e12,  # T
    attained=0.91,  # S
    l2_bytes=52428800,  # T
    l2_bytes_per_s=6.0e12,  # S
    shared_bytes=233472,  # T
    memory_cycles=900.0,  # S
    products_per_s={8: 1979e12, 16: 989e12, 32: 494e12, 64: 67e12},  # U, without sparsity; 32: TensorFloat-32
    link_bytes_per_s=450e9,  # D: 900e9 both ways
    network_bytes_per_s=50e9,  # N
)
_A100 = Device(
    name="NVIDIA A100-SXM4-80GB",
    clock_hz=1.41e9,  # T
    multiprocessors=108,  # T
    memory_bytes_per_s=2.039e12,  # T
    attained=0.85,  # S
    l2_bytes=41943040,  # T
    l2_bytes_per_s=4.0e12,  # S
    shared_bytes=167936,  # T
    memory_cycles=700.0,  # S
    products_per_s={8: 624e12, 16: 312e12, 32: 156e12, 64: 19.5e12},  # U, without sparsity; 32: TensorFloat-32
    link_bytes_per_s=300e9,  # D: 600e9 both ways
    network_bytes_per_s=25e9,  # unchecked: a card of 200 Gb/s for each device
)
_DEVICES = (
    _H100,
    replace(
        _H100,
        name="NVIDIA H200",
        memory_bytes_per_s=4.8e12,  # T
        attained=0.91,  # A
    ),
    _A100,
    replace(
        _A100,
        name="NVIDIA A100-SXM4-40GB",
        memory_bytes_per_s=1.555e12,  # D
    ),
    replace(
        _H100,
        name="NVIDIA B200",
        clock_hz=1.965e9,  # T
        multiprocessors=148,  # T
        memory_bytes_per_s=7.672e12,  # T
        attained=0.91,  # A
        l2_bytes=132644864,  # T
        l2_bytes_per_s=9.0e12,  # A: as the bandwidth of an H100's for as many multiprocessors, rounded up
        products_per_s={8: 4500e12, 16: 2250e12, 32: 1125e12, 64: 37e12},  # D, without sparsity
        link_bytes_per_s=900e9,  # D: 1800e9 both ways
        network_bytes_per_s=50e9,  # A
        assumed=True,
    ),
)


_BY_CAPABILITY = {(8, 0): "NVIDIA A100-SXM4-80GB", (9, 0): "NVIDIA H100 80GB HBM3", (10, 0): "NVIDIA B200"}
"""The device that stands for others of its architecture."""


def device_of(target: Target) -> Device | None:
    """What is known of the device of a target; None where none of its architecture is known.

    Another device of an architecture that is known differs by what its target says: multiprocessors, bandwidth, cache.
    """
    known = next((device for device in _DEVICES if device.name == target.device_name), None)
    if known is not None:
        return known
    like = _BY_CAPABILITY.get(target.capability)
    if like is None:
        return None
    return replace(
        next(device for device in _DEVICES if device.name == like),
        name=target.device_name,
        multiprocessors=target.cores,
        memory_bytes_per_s=target.memory_bandwidth,
        l2_bytes=target.l2_bytes,
    )
