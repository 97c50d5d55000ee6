"""Reads one compiled program: everything that the study says of it, from the module and from XLA's dump."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from normbench.declared import declared
from normbench.fusion import bounds
from normbench.fusion.flow import Flow, flows
from normbench.fusion.hints import hints
from normbench.fusion.hlo import Module, read_hlo_dump, read_module
from normbench.fusion.launches import Launch, launches
from normbench.fusion.machine_code.assembly import Assembly, assemblies
from normbench.fusion.machine_code.mosaic import MOSAIC_PRINTED, mosaic_kernels
from normbench.fusion.ptx import Kernel, find_ptxas, kernels_of_dump
from normbench.fusion.refusals import Refusal, refusals_of_dump
from normbench.fusion.targets import Target

LAUNCH_COST_S = 2.0e-6
"""Assumed cost of one launch in a prediction: the time between the starts of two empty kernels is about 2 us on
present NVIDIA devices (to be measured, not quoted: a prediction is never a measurement)."""


@dataclass(frozen=True)
class Reading:
    """What was read of one compiled program; times in seconds, sizes in bytes.

    Attributes:
      parameters: number of arrays that the compiled program takes.
      launches: in the order of execution.
      kernels: grid, block, widths ... by launch, in the same order.
      flows: where the bytes of each launch come from, in the same order.
      refusals: what the compiler did not fuse.
      bytes: over all launches.
      minimum_bytes, streaming_minimum_bytes: see `normbench.fusion.bounds`; the second is None where it is not known.
      xla_bytes, flops: by XLA's own generic analysis; flops are None until somebody has asked for them.
      bytes_launch_s: bytes over bandwidth and a cost per launch; None for a target of unknown bandwidth.
      hints: sentences.
      assembly: the code of each launch, in the same order; None where the compiler's files do not say.
    """

    parameters: int
    launches: tuple[Launch, ...]
    kernels: tuple[Kernel, ...]
    flows: tuple[Flow, ...]
    refusals: tuple[Refusal, ...]
    bytes: int
    minimum_bytes: int
    streaming_minimum_bytes: int | None
    xla_bytes: int | None
    flops: float | None
    bytes_launch_s: tuple[float | None, ...]
    hints: tuple[str, ...]
    assembly: tuple[Assembly | None, ...]

    @property
    def traffic_ratio(self) -> float | None:
        return self.bytes / self.minimum_bytes if self.minimum_bytes else None

    @property
    def bytes_s(self) -> float | None:
        known = [seconds for seconds in self.bytes_launch_s if seconds is not None]
        return sum(known) if known and len(known) == len(self.launches) else None

    @property
    def declared_bytes(self) -> int | None:
        """Bytes in which each launch counts with what it declares, or else with what crosses its boundary; None where
        no launch declares anything."""
        sizes = [declared_bytes(launch) for launch in self.launches]
        if all(size is None for size in sizes):
            return None
        boundary = [launch.read_bytes + launch.write_bytes for launch in self.launches]
        return sum(b if d is None else d for b, d in zip(boundary, sizes, strict=True))

    def compiled_columns(self) -> dict[str, Any]:
        """The columns of the table `compiled` that come from reading."""
        return {
            "launches": len(self.launches),
            "bytes": self.bytes,
            "minimum_bytes": self.minimum_bytes,
            "streaming_minimum_bytes": self.streaming_minimum_bytes,
            "declared_bytes": self.declared_bytes,
            "traffic_ratio": self.traffic_ratio,
            "xla_bytes": self.xla_bytes,
            "flops": self.flops,
            "bytes_s": self.bytes_s,
            "hints": json.dumps(self.hints),
        }

    def launch_rows(self, target: str) -> list[dict[str, Any]]:
        """Rows of the table `launches`, without the column `case`."""
        return [self._launch_row(target, launch) for launch in self.launches]

    def _launch_row(self, target: str, launch: Launch) -> dict[str, Any]:
        refused = [refusal for refusal in self.refusals if refusal.producer == launch.index]
        flow = self.flows[launch.index]
        return {
            "target": target,
            "index": launch.index,
            "name": launch.name,
            "kind": launch.kind,
            "ops": ",".join(launch.ops),
            "source_ops": ",".join(launch.source_ops),
            "read_bytes": launch.read_bytes,
            "write_bytes": launch.write_bytes,
            "declared_bytes": declared_bytes(launch),
            **asdict(self.kernels[launch.index]),
            "bytes_s": self.bytes_launch_s[launch.index],
            "refusals": json.dumps([refusal.sentence(self.launches) for refusal in refused]),
            "refused": json.dumps([[list(refusal.consumers), refusal.reason] for refusal in refused]),
            "inputs": json.dumps(flow.input_lists()),
            "results": json.dumps(flow.results),
        }


def declared_bytes(launch: Launch) -> int | None:
    """What a hand-written kernel says that it reads and writes, for all its repetitions."""
    said = declared(launch.instruction.op_name)
    return None if said is None else sum(said) * launch.repetitions


def read_program(
    proto: bytes, dump: Path | None, target: Target | None, xla_bytes: float | None, on_gpu: bool
) -> Reading:
    """Reads a program from its serialized optimised module and, for a GPU, the folder of XLA's dump.

    Args:
      proto: HloModuleProto.
      dump: folder into which XLA has dumped this one module, or None.
      target: the device's facts, or None where they are not known (the CPU).
      xla_bytes: by XLA's generic cost analysis, or None.
      on_gpu: whether it was compiled for a GPU.
    """
    module = read_module(proto)
    found = launches(module)
    unoptimised = _unoptimised(dump)
    minimum = bounds.minimum_bytes(module, found)
    counted = None if xla_bytes is None else int(xla_bytes)
    by_name, assembly = _kernels(dump, found)
    return Reading(
        parameters=len(module.entry.parameters),
        launches=found,
        kernels=tuple(by_name.get(launch.name, Kernel()) for launch in found),
        flows=flows(module, found),
        refusals=refusals_of_dump(dump, found) if dump else (),
        bytes=sum(launch.read_bytes + launch.write_bytes for launch in found),
        minimum_bytes=minimum,
        streaming_minimum_bytes=_streaming(minimum, unoptimised, target),
        xla_bytes=counted,
        flops=None,
        bytes_launch_s=tuple(_bytes_s(launch, target) for launch in found),
        hints=hints(module, found, unoptimised, on_gpu, counted),
        assembly=tuple(assembly.get(launch.name) for launch in found),
    )


def _unoptimised(dump: Path | None) -> Module | None:
    found = sorted(dump.glob("*before_optimizations.hlo.pb")) if dump else []
    return read_hlo_dump(found[0].read_bytes()) if found else None


def _streaming(minimum: int, unoptimised: Module | None, target: Target | None) -> int | None:
    if unoptimised is None or target is None:
        return None
    return bounds.streaming_minimum_bytes(minimum, unoptimised, target.l2_bytes, target.core_memory_bytes)


def _kernels(dump: Path | None, found: tuple[Launch, ...]) -> tuple[dict[str, Kernel], dict[str, Assembly]]:
    """Facts and code of the kernels by name of their launch."""
    if dump is None:
        return {}, {}
    printed = dump / MOSAIC_PRINTED
    mosaic = mosaic_kernels(found, printed.read_text() if printed.exists() else "")
    for kernel in mosaic.values():
        (dump / f"{kernel.entry}.ptx").write_text(kernel.ptx)
    by_name = kernels_of_dump(dump, find_ptxas(), {name: kernel.launched for name, kernel in mosaic.items()})
    return by_name, assemblies(dump, mosaic)


def _bytes_s(launch: Launch, target: Target | None) -> float | None:
    if target is None:
        return None
    size = launch.read_bytes + launch.write_bytes
    return launch.repetitions * LAUNCH_COST_S + size / target.memory_bandwidth
