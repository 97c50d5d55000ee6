"""Rules for launches whose code is not at hand."""

from types import SimpleNamespace

from normbench.predict.rules import operations_of


def product(index, flops, size=100):
    return SimpleNamespace(
        index=index, ops=("dot",), flops=flops, read_bytes=size, write_bytes=size,
        instruction=SimpleNamespace(custom_call_target=""),
    )  # fmt: skip


def test_products_count_with_their_own_operations_where_a_hand_written_kernel_hides_the_programs():
    """Without them a program with a Pallas kernel in it would be predicted as if its products took no time."""
    launches = [product(0, 1e9), product(1, 3e9)]
    assert operations_of(launches, None) == {0: 1e9, 1: 3e9}
    assert sum(operations_of(launches, 4e9).values()) == 4e9
