"""Reads one compiled program: everything that the study says of it, from the module and from XLA's dump."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from normbench.declared import declared
from normbench.fusion import bounds
from normbench.fusion.flow import Flow, flows
from normbench.fusion.hints import hints
from normbench.fusion.hlo import Module, read_hlo_dump
from normbench.fusion.launches import Launch
from normbench.fusion.machine_code.assembly import Assembly, assembly_of_dump
from normbench.fusion.machine_code.mosaic import MOSAIC_PRINTED, mosaic_kernels
from normbench.fusion.program.barriers import least_between_barriers_bytes
from normbench.fusion.program.graph import read_graph
from normbench.fusion.program.partition import ONE, Partition
from normbench.fusion.ptx import Kernel, kernels_of_dump, launched_kernels
from normbench.fusion.refusals import Refusal, refusals_of_dump
from normbench.fusion.targets import TPU, Target

LAUNCH_COST_S = 2.0e-6
"""Assumed cost of one launch in a prediction: the time between the starts of two empty kernels is about 2 us on
present NVIDIA devices (to be measured, not quoted: a prediction is never a measurement)."""


@dataclass(frozen=True)
class Reading:
    """What was read of one compiled program; times in seconds, sizes in bytes.

    Attributes:
      parameters: number of arrays that the compiled program takes.
      launches: in the order of execution.
      kernels: grid, block, widths ... by launch, in the same order; without registers and spills.
      assembly: the code of the launches, which tells registers, spills and predictions where they are asked for.
      flows: where the bytes of each launch come from, in the same order.
      refusals: what the compiler did not fuse.
      bytes: over all launches.
      minimum_bytes, streaming_minimum_bytes: see `normbench.fusion.bounds`; the second is None where it is not known.
      least_between_barriers_bytes: see `normbench.fusion.program.barriers`.
      xla_bytes, flops: by XLA's own generic analysis; flops are None until somebody has asked for them.
      bytes_launch_s: bytes over bandwidth and a cost per launch; None for a target of unknown bandwidth.
      hints: sentences.
      partition: over which devices; the program is that of one of them.
    """

    parameters: int
    launches: tuple[Launch, ...]
    kernels: tuple[Kernel, ...]
    assembly: Assembly
    flows: tuple[Flow, ...]
    refusals: tuple[Refusal, ...]
    bytes: int
    minimum_bytes: int
    least_between_barriers_bytes: int
    streaming_minimum_bytes: int | None
    xla_bytes: int | None
    flops: float | None
    bytes_launch_s: tuple[float | None, ...]
    hints: tuple[str, ...]
    partition: Partition = ONE

    @property
    def executed_launches(self) -> int:
        """Launches with the repetitions of loops; those of a loop of unknown length count once."""
        return sum(launch.repetitions for launch in self.launches)

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
            "executed_launches": self.executed_launches,
            "bytes": self.bytes,
            "minimum_bytes": self.minimum_bytes,
            "least_between_barriers_bytes": self.least_between_barriers_bytes,
            "streaming_minimum_bytes": self.streaming_minimum_bytes,
            "declared_bytes": self.declared_bytes,
            "traffic_ratio": self.traffic_ratio,
            "xla_bytes": self.xla_bytes,
            "flops": self.flops,
            "bytes_s": self.bytes_s,
            "hints": json.dumps(self.hints),
        }

    def launch_rows(self, target: str, assembled: bool = True) -> list[dict[str, Any]]:
        """Rows of the table `launches`, without the column `case`.

        With `assembled` the kernels are assembled, which takes 20 ms each, for their registers and spilled bytes.
        """
        return [self._launch_row(target, launch, assembled) for launch in self.launches]

    def _launch_row(self, target: str, launch: Launch, assembled: bool) -> dict[str, Any]:
        refused = [refusal for refusal in self.refusals if refusal.producer == launch.index]
        flow = self.flows[launch.index]
        return {
            "target": target,
            "index": launch.index,
            "name": launch.name,
            "kind": launch.kind,
            "computation": launch.computation,
            "repetitions": launch.repetitions,
            "repetitions_known": launch.repetitions_known,
            "branch": launch.branch,
            "ops": ",".join(launch.ops),
            "source_ops": ",".join(launch.source_ops),
            "scope": launch.scope,
            "source": launch.source,
            "flops": launch.flops,
            "read_bytes": launch.read_bytes,
            "write_bytes": launch.write_bytes,
            "padding_bytes": launch.padding_bytes,
            "workspace_bytes": launch.workspace_bytes,
            "wire_bytes": launch.wire_bytes,
            "declared_bytes": declared_bytes(launch),
            **asdict(self.kernel(launch, assembled)),
            "bytes_s": self.bytes_launch_s[launch.index],
            "estimated_cycles": launch.estimated_cycles,
            "refusals": json.dumps([refusal.sentence(self.launches) for refusal in refused]),
            "refused": json.dumps([[list(refusal.consumers), refusal.reason] for refusal in refused]),
            "inputs": json.dumps(flow.input_lists()),
            "results": json.dumps(flow.results),
        }

    def kernel(self, launch: Launch, assembled: bool = True) -> Kernel:
        """The facts of a launch; with registers and spilled bytes only where `assembled`."""
        kernel = self.kernels[launch.index]
        if not assembled:
            return kernel
        code = self.assembly.code(launch.name)
        return replace(kernel, registers=code.registers, spill_bytes=code.spill_bytes) if code else kernel


def declared_bytes(launch: Launch) -> int | None:
    """What a hand-written kernel says that it reads and writes, for all its repetitions."""
    said = declared(launch.instruction.op_name)
    return None if said is None else sum(said) * launch.repetitions


def read_program(
    module: Module,
    dump: Path | None,
    target: Target | None,
    xla_bytes: float | None,
    on_gpu: bool,
    partition: Partition = ONE,
) -> Reading:
    """Reads a program from its optimised module and, for a GPU, the folder of XLA's dump.

    Args:
      module: optimised.
      dump: folder into which XLA has dumped this one module, or None.
      target: the device's facts, or None where they are not known (the CPU).
      xla_bytes: by XLA's generic cost analysis, or None.
      on_gpu: whether it was compiled for a GPU.
      partition: over which devices; the program is that of one of them.
    """
    program = read_graph(module)
    found = program.launches
    unoptimised = _unoptimised(dump)
    minimum = bounds.minimum_bytes(program)
    counted = None if xla_bytes is None or xla_bytes < 0 else int(xla_bytes)
    by_name, assembly = _kernels(dump, found)
    kernels = tuple(by_name.get(launch.name, Kernel()) for launch in found)
    return Reading(
        parameters=len(program.parameters),
        launches=found,
        kernels=kernels,
        assembly=assembly,
        flows=flows(program),
        refusals=refusals_of_dump(dump, program) if dump else (),
        bytes=sum(launch.read_bytes + launch.write_bytes for launch in found),
        minimum_bytes=minimum,
        least_between_barriers_bytes=least_between_barriers_bytes(program),
        streaming_minimum_bytes=_streaming(minimum, unoptimised, target),
        xla_bytes=counted,
        flops=None,
        bytes_launch_s=tuple(_bytes_s(launch, target) for launch in found),
        hints=hints(program, unoptimised, on_gpu, counted, kernels, target),
        partition=partition,
    )


def _unoptimised(dump: Path | None) -> Module | None:
    found = sorted(dump.glob("*before_optimizations.hlo.pb")) if dump else []
    return read_hlo_dump(found[0].read_bytes()) if found else None


def _streaming(minimum: int, unoptimised: Module | None, target: Target | None) -> int | None:
    if unoptimised is None or target is None:
        return None
    return bounds.streaming_minimum_bytes(minimum, unoptimised, target.l2_bytes, target.core_memory_bytes)


def _kernels(dump: Path | None, found: tuple[Launch, ...]) -> tuple[dict[str, Kernel], Assembly]:
    """Facts of the kernels by name of their launch, and their code."""
    if dump is None:
        return {}, Assembly()
    printed = dump / MOSAIC_PRINTED
    mosaic = mosaic_kernels(found, printed.read_text() if printed.exists() else "")
    for kernel in mosaic.values():
        (dump / f"{kernel.entry}.ptx").write_text(kernel.ptx)
    launched = launched_kernels(dump) | {name: kernel.launched for name, kernel in mosaic.items()}
    return kernels_of_dump(dump, launched), assembly_of_dump(dump, launched)


def _bytes_s(launch: Launch, target: Target | None) -> float | None:
    if target is None or launch.wire_bytes:  # of a link to the host or another device nothing is known here
        return None
    size = launch.read_bytes + launch.write_bytes
    start_s = 0.0 if target.platform == TPU else LAUNCH_COST_S  # a TPU's program starts once, as a whole
    return launch.repetitions * start_s + size / target.memory_bandwidth
