"""The time of a collective: NVLink within a machine of eight devices, a network between machines.

The library that XLA calls (NCCL) chooses among algorithms and protocols by a model of its own; the fastest by that
model is taken here too. For n devices in a group, m machines, S bytes and w bytes on the wire of each device:

| algorithm | takes                                                                                             |
|-----------|---------------------------------------------------------------------------------------------------|
| ring      | start + (steps - far steps) * near + far steps * far + w / (share * bus)                          |
| tree      | start + 2 ((n/m - 1) near + log2(m) far) + 2 S / (share * 0.92 * bus); an all-reduce alone         |
| one shot  | a launch + two exchanges of flags + (n - 1) S / bus; XLA's own kernel, within a machine           |

with 2 (n - 1) steps of an all-reduce, of which 2 m are far, and n - 1 of others, of which m - 1 are far. The bus is
what NVLink attains, or what the network cards of those devices of a machine attain that are in the group, if that is
less.

Sources of the figures: `PROTOCOLS` are NCCL's (github.com/NVIDIA/nccl, src/graph/tuning.cc, commit b6475625: baseLat,
hwLat, llMaxBws and the factors of the bandwidth); what NVLink attains, 370 of 450 GB/s, is from an answer of its
maintainers (github.com/NVIDIA/nccl-tests, issue 212), and what a network card of 400 Gb/s attains, 46 to 48 GB/s, too
(issue 290). Not modelled: sums in the switch (NVLink SHARP), other traffic on the network.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from normbench.fusion.program.partition import DEVICES_PER_MACHINE
from normbench.fusion.program.wires import ONE_SHOT, Collective
from normbench.predict.devices import Device

_NVLINK_ATTAINED = 370 / 450
_NETWORK_ATTAINED = 47 / 50
_FLAGS_S = 2.0e-6
"""Until each device has seen a flag of every other in its memory; assumed."""
_TREE_BUS = 0.92
_OVERHEAD_S = 1.0e-6
"""That a step of a ring takes at least where the ring leaves the machine (tuning.cc, getNetOverhead)."""


@dataclass(frozen=True)
class Protocol:
    """How NCCL sends: `start_s` once, `near_s` and `far_s` a step within a machine and between two; `share` of the
    bandwidth, at most `most_bytes_per_s`; `posts` to the network a step."""

    name: str
    start_s: float
    near_s: float
    far_s: float
    share: float
    most_bytes_per_s: float = math.inf
    posts: int = 1


_RING = (
    Protocol("LL", 6.6e-6, 0.6e-6, 2.7e-6, 1 / 4, 87.7e9),
    Protocol("LL128", 14.0e-6, 1.9e-6, 4.0e-6, 0.92),
    Protocol("Simple", 8.4e-6, 3.4e-6, 14.0e-6, 1.0, posts=3),
)
_TREE = (
    Protocol("LL", 6.8e-6, 0.6e-6, 5.0e-6, 1 / 3.8, 87.7e9),
    Protocol("LL128", 14.0e-6, 1.25e-6, 8.5e-6, 7 / 9),
)


@dataclass(frozen=True)
class Transfer:
    """The time of one run of a collective, and what it waits for most, in words."""

    seconds: float
    bound: str


@dataclass(frozen=True)
class _Group:
    """n devices on m machines, at most `together` on one."""

    devices: int
    machines: int
    together: int


def transfer(collective: Collective, device: Device) -> Transfer | None:
    """The time of a collective among devices such as `device`; None where its groups are not known."""
    if collective.kind in ("send", "recv", "collective-permute", "collective-broadcast"):
        return _steps(collective, _Group(2, 1, 2), device)
    group = _widest(collective)
    return None if group is None else _steps(collective, group, device)


def _widest(collective: Collective) -> _Group | None:
    """The group that spans most machines: the others wait for it."""
    found = [_group(devices) for devices in collective.groups]
    return max(found, key=lambda group: (group.machines, -group.together), default=None)


def _group(devices: tuple[int, ...]) -> _Group:
    machines = Counter(place // DEVICES_PER_MACHINE for place in devices)
    return _Group(len(devices), len(machines), max(machines.values(), default=1))


def _steps(collective: Collective, group: _Group, device: Device) -> Transfer:
    bus, link = _bus(group, device)
    if collective.algorithm == ONE_SHOT and group.machines == 1:
        sent = (group.devices - 1) * collective.whole_bytes
        start = device.launch_s + 2 * _FLAGS_S
        return Transfer(start + sent / bus, _words(start, sent, bus, link, "one shot"))
    start, sending, name = min(_ways(collective, group, bus), key=lambda way: way[0] + way[1])
    return Transfer(start + sending, _words(start, sending * bus, bus, link, name))


def _ways(collective: Collective, group: _Group, bus: float) -> Iterator[tuple[float, float, str]]:
    """Start and steps, sending, and its name, of each algorithm and protocol."""
    n, m = group.devices, group.machines
    twice = 2 if collective.kind == "all-reduce" else 1
    steps = twice * (n - 1)
    far = 0 if m == 1 else 2 * m if twice == 2 else m - 1
    sent = collective.wire_bytes or 0
    for protocol in _RING:
        near_s = protocol.near_s if m == 1 else max(protocol.near_s, protocol.posts * _OVERHEAD_S)
        start = protocol.start_s + (steps - far) * near_s + far * protocol.far_s
        yield start, sent / _rate(protocol, bus), f"a ring of {n} ({protocol.name})"
    for protocol in _TREE if collective.kind == "all-reduce" else ():
        hops = (n / m - 1) * protocol.near_s + math.log2(m) * protocol.far_s
        seconds = 2 * collective.whole_bytes / _rate(protocol, _TREE_BUS * bus)
        yield protocol.start_s + 2 * hops, seconds, f"a tree of {n} ({protocol.name})"


def _rate(protocol: Protocol, bus: float) -> float:
    return min(protocol.share * bus, protocol.most_bytes_per_s)


def _bus(group: _Group, device: Device) -> tuple[float, str]:
    """Bytes per second that the slowest link of a group attains, and its name."""
    near = _NVLINK_ATTAINED * device.link_bytes_per_s
    far = group.together * _NETWORK_ATTAINED * device.network_bytes_per_s
    return (near, "NVLink") if group.machines == 1 or near < far else (far, "the network")


def _words(start_s: float, sent: float, bus: float, link: str, algorithm: str) -> str:
    if start_s > sent / bus:
        return f"the start and the steps of {algorithm}: {start_s * 1e6:.1f} us"
    return f"{link}: {bus / 1e9:.0f} GB/s attained, by {algorithm}"
