"""Bytes, kinds and bounds of modules written down as HLO text."""

import pytest

from normbench.fusion.bounds import minimum_bytes
from normbench.fusion.hints import hints
from normbench.fusion.program.barriers import least_between_barriers_bytes
from normbench.fusion.reading import read_program
from normbench.fusion.targets import deviceless_target
from tests.fusion import modules
from tests.fusion.text_counter import Count

KILO = 1024 * 4


def only(text):
    (launch,) = modules.program(text).launches
    return launch


def test_an_asynchronous_copy_is_one_transfer():
    launch = only(modules.COPY_ON_THE_DEVICE)
    assert (launch.kind, launch.read_bytes, launch.write_bytes, launch.wire_bytes) == ("copy", KILO, KILO, None)


def test_a_copy_from_the_host_is_apart_from_device_memory():
    launch = only(modules.COPY_FROM_HOST)
    assert (launch.kind, launch.read_bytes, launch.write_bytes, launch.wire_bytes) == ("host copy", 0, KILO, KILO)
    module = modules.program(modules.COPY_FROM_HOST).module
    reading = read_program(module, None, deviceless_target("h200"), None, on_gpu=True)
    assert reading.bytes_s is None
    assert any(hint.startswith("host memory: 1 copies move 4.1 kB") for hint in reading.hints)


def test_a_collective_is_one_launch_and_its_wire_bytes_are_no_bytes_of_memory():
    gather, reduce = modules.program(modules.COLLECTIVES).launches
    assert gather.kind == reduce.kind == "collective"
    assert (gather.read_bytes, gather.write_bytes, gather.wire_bytes) == (KILO // 4, KILO, KILO * 3 // 4)
    assert (reduce.read_bytes, reduce.write_bytes, reduce.wire_bytes) == (KILO // 4, KILO // 4, 2 * KILO // 4 * 3 // 4)


def test_scratch_memory_is_shown_and_no_traffic():
    program = modules.program(modules.LIBRARY_CALL)
    (launch,) = program.launches
    assert (launch.kind, launch.workspace_bytes) == ("library", 33554432)
    assert launch.read_bytes + launch.write_bytes == 4 * (64 * 32 + 32 * 16 + 64 * 16) == minimum_bytes(program)
    assert launch.flops == 2 * 64 * 32 * 16
    (words,) = hints(program, None, True, None)
    assert "their scratch memory of up to 33.6 MB does not" in words


def test_an_update_of_what_the_launch_makes_itself_writes_all_of_it():
    assert only(modules.UPDATE_OF_ZEROS).write_bytes == KILO


def test_of_a_slice_only_the_part_that_is_used_is_read():
    """In an unrolled loop a launch takes its repetition out of those that are sliced together."""
    launch = only(modules.SLICE_OF_A_SLICE)
    assert (launch.read_bytes, launch.write_bytes) == (256 * 4 + 4, 256 * 4)


@pytest.mark.parametrize(
    "name", ["COPY_ON_THE_DEVICE", "COLLECTIVES", "LIBRARY_CALL", "UPDATE_OF_ZEROS", "SLICE_OF_A_SLICE"], ids=str.lower
)
def test_the_text_counter_agrees(name):
    text = getattr(modules, name)
    program, count = modules.program(text), Count(text)
    assert sum(launch.read_bytes + launch.write_bytes for launch in program.launches) == count.bytes
    assert minimum_bytes(program) == count.minimum <= least_between_barriers_bytes(program) <= count.bytes
