"""What an array is made of, element by element."""

from normbench.fusion.program.graph import CARRIED, Node, Program

_STOPS = frozenset(
    (
        "parameter", "constant", CARRIED, "dot", "convolution", "custom-call", "reduce", "reduce-window", "gather",
        "scatter", "dynamic-slice", "slice", "dynamic-update-slice", "concatenate", "pad", "iota", "broadcast",
        "rng", "rng-bit-generator", "sort", "select-and-scatter", "cholesky", "triangular-solve", "fft", "while",
    )
)  # fmt: skip
_SCALARS = ("broadcast", "constant", "iota")
PRODUCTS = frozenset(["dot", "convolution", "custom-call"])
FLOATS = frozenset(
    ["f16", "bf16", "f32", "f64", "f8e5m2", "f8e4m3fn", "f8e4m3", "f8e3m4", "f8e4m3b11fnuz", "f8e4m3fnuz", "f8e5m2fnuz"]
)


def sources(program: Program, value: int, narrower_than: int = 0) -> frozenset[int]:
    """The arrays of as many elements of which `value` is made element by element (or in another order): arguments,
    constants, and results of anything else than elementwise arithmetic. What is smaller and broadcast is left out.

    With `narrower_than` (bits of an element) a narrower array on the way is a source too.
    """
    elements = program.nodes[value].shape.elements
    found, seen, todo = set(), set(), [value]
    while todo:
        one = todo.pop()
        if one in seen:
            continue
        seen.add(one)
        node = program.nodes[one]
        if _is_source(node) or node.shape.bits < narrower_than:
            found.add(one)
            continue
        todo += [operand for operand in node.operands if program.nodes[operand].shape.elements == elements]
    return frozenset(found)


def _is_source(node: Node) -> bool:
    return node.opcode in _STOPS or "-start" in node.opcode or node.opcode.startswith(("all-", "collective-"))


def float_sources(program: Program, value: int, narrower_than: int = 0) -> frozenset[int]:
    """Those of the sources that are floating-point arrays; broadcasts and constants are left out."""
    found = ((one, program.nodes[one]) for one in sources(program, value, narrower_than))
    return frozenset(one for one, node in found if node.shape.element in FLOATS and node.opcode not in _SCALARS)
