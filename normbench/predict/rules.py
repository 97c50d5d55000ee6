"""Launches whose code is not at hand: library calls, matrix products, copies, collectives. Each rule has a name.

| rule         | a launch takes                                                                                   |
|--------------|--------------------------------------------------------------------------------------------------|
| operations   | the longer of its bytes over the attained bandwidth and its operations over 0.7 of the peak       |
| bytes        | its bytes over the attained bandwidth, and a start                                                |
| interconnect | see `normbench.predict.links`                                                                     |

A product is taken by its operations even where XLA makes a kernel of its own for it: without the device nothing tunes
that kernel, and another one will run. Its operations are those of its own shapes, whatever else is in the program:
with and without a kernel written by hand beside it, it takes the same time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from normbench.fusion.launches import Launch
from normbench.predict.devices import Device
from normbench.predict.links import transfer

OPERATIONS, BYTES, INTERCONNECT = "operations", "bytes", "interconnect"

ATTAINED_OPERATIONS = 0.7
"""Share of the peak that a matrix product of a library attains where it is large; assumed."""
_COLLECTIVE_START_S = 10e-6
"""Of a collective among devices that are not told; assumed."""
_PRODUCTS = ("dot", "convolution")


@dataclass(frozen=True)
class Ruled:
    """The time of a launch by a rule."""

    seconds: float
    rule: str
    bound: str


def is_product(launch: Launch) -> bool:
    """Whether a launch computes a matrix product or a convolution."""
    target = launch.instruction.custom_call_target
    called = target.startswith(("__cublas", "__cudnn$conv")) or "gemm" in target
    return called or any(op in _PRODUCTS for op in launch.ops)


def operations_of(launches: Sequence[Launch]) -> dict[int, float]:
    """Floating-point operations by index of the products among the launches; of all their repetitions. Of a call whose
    operations are not known they are 0, and it is taken by its bytes."""
    return {launch.index: launch.flops or 0.0 for launch in launches if is_product(launch)}


def ruled(launch: Launch, operations: float | None, device: Device) -> Ruled:
    """The time of one run of a launch.

    Args:
      operations: of one run of a product; None for other launches.
    """
    size = (launch.read_bytes + launch.write_bytes) / launch.repetitions
    if launch.collective is not None:
        found = transfer(launch.collective, device)
        if found is not None:
            return Ruled(found.seconds, INTERCONNECT, found.bound)
        return Ruled(_COLLECTIVE_START_S + size / 2 / device.link_bytes_per_s, INTERCONNECT, "the interconnect")
    by_bytes = size / (device.attained * device.memory_bytes_per_s)
    memory = "device memory" if by_bytes > device.launch_s else "its start"
    if operations is None:
        return Ruled(device.launch_s + by_bytes, BYTES, f"{memory} (by its bytes alone)")
    by_operations = operations / (ATTAINED_OPERATIONS * _peak(launch, device))
    if by_operations > by_bytes:
        return Ruled(device.launch_s + by_operations, OPERATIONS, _in_words(launch, device))
    return Ruled(device.launch_s + by_bytes, OPERATIONS, memory)


def _peak(launch: Launch, device: Device) -> float:
    return device.products_per_s.get(launch.product_bits or 32) or device.products_per_s[32]


def _in_words(launch: Launch, device: Device) -> str:
    return f"operations: {100 * ATTAINED_OPERATIONS:.0f} % of {_peak(launch, device) / 1e12:.0f} T a second"
