"""The time of a launch on a TPU: by the cycles of the compiler's own cost model, by its bytes, by its operations.

The compiler gives cycles for each fusion, but they are no cycles of the chip's clock: for a program that only streams,
`x + 1` over 1 GiB, they make two to three times what the memory takes. So they are taken as shares of that program's
time: cycles per second are those at which streaming attains the memory's bandwidth. A launch takes the longer of its
cycles at that rate and its bytes at that bandwidth.

| rule         | a launch takes                                                                                   |
|--------------|--------------------------------------------------------------------------------------------------|
| cycles       | the longer of its estimated cycles at the rate, and its bytes at the attained bandwidth            |
| operations   | the longer of its bytes, and its operations over 0.7 of the peak                                   |
| bytes        | its bytes alone: copies between HBM and VMEM, kernels written by hand                              |
| interconnect | a collective: its wire bytes at what the links of one axis carry                                   |

Sources, by letter in the comments:

| letter | source |
|--------|--------|
| C | libtpu 0.0.42.1: `optimal_seconds` of `x + 1` over 1 GiB in bfloat16, as a share of the datasheet's bandwidth |
| E | libtpu 0.0.42.1: estimated cycles of that program, per byte |
| I | Google's pages of the TPUs: bidirectional bandwidth of a chip's links; one axis has its part, one way half |
| U | not checked |
"""

from dataclasses import dataclass

from normbench.fusion.launches import Launch
from normbench.fusion.targets import Target
from normbench.fusion.tpu.chips import CHIPS, Chip
from normbench.predict.rules import ATTAINED_OPERATIONS, BYTES, INTERCONNECT, OPERATIONS, Ruled

CYCLES = "cycles"
_COLLECTIVE_START_S = 2e-6
"""Assumed."""


@dataclass(frozen=True)
class Rates:
    """What the predictions of a TPU know of it.

    Attributes:
      attained: share of the memory's bandwidth that streaming attains.
      cycles_per_byte: that the compiler estimates for streaming, read and written bytes alike.
      link_bytes_per_s: that a device sends along one axis of the torus, both ways together.
    """

    attained: float
    cycles_per_byte: float
    link_bytes_per_s: float

    def cycles_per_s(self, chip: Chip) -> float:
        return self.cycles_per_byte * self.attained * chip.memory_bytes_per_s


RATES = {
    "v4": Rates(attained=0.80, cycles_per_byte=2.212e-3, link_bytes_per_s=100e9),  # C, E, U
    "v5e": Rates(attained=0.90, cycles_per_byte=4.501e-3, link_bytes_per_s=100e9),  # C, E, I
    "v5p": Rates(attained=0.85, cycles_per_byte=1.742e-3, link_bytes_per_s=200e9),  # C, E, I
    "v6e": Rates(attained=1.0, cycles_per_byte=2.642e-3, link_bytes_per_s=200e9),  # C, E, I
    "tpu7x": Rates(attained=1.0, cycles_per_byte=1.579e-3, link_bytes_per_s=100e9),  # C, E, U
}


def ruled_on_tpu(launch: Launch, target: Target) -> Ruled:
    """The time of one run of a launch."""
    chip, rates = CHIPS[target.config], RATES[target.config]
    size = (launch.read_bytes + launch.write_bytes) / launch.repetitions
    by_bytes = size / (rates.attained * chip.memory_bytes_per_s)
    if launch.collective is not None:
        sent = (launch.wire_bytes or 0) / launch.repetitions / rates.link_bytes_per_s
        return Ruled(_COLLECTIVE_START_S + sent, INTERCONNECT, "the interconnect (by its bytes alone)")
    if launch.flops:
        by_operations = launch.flops / launch.repetitions / (ATTAINED_OPERATIONS * chip.products_per_s)
        words = f"operations: {100 * ATTAINED_OPERATIONS:.0f} % of {chip.products_per_s / 1e12:.0f} T a second"
        return Ruled(max(by_bytes, by_operations), OPERATIONS, words if by_operations > by_bytes else "HBM")
    if launch.estimated_cycles is None:
        return Ruled(by_bytes, BYTES, "HBM (by its bytes alone)")
    cycles = launch.estimated_cycles / launch.repetitions
    by_cycles = cycles / rates.cycles_per_s(chip)
    if by_cycles > by_bytes:
        share = f"HBM is busy for {by_bytes / by_cycles:.0%}"
        return Ruled(by_cycles, CYCLES, f"work on the chip: {cycles:.0f} cycles by the compiler's estimate; {share}")
    return Ruled(by_bytes, CYCLES, "HBM")
