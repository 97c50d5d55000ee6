"""Sentences that name what costs bytes in a compiled program, each with its figure and, if there is one, a remedy."""

from normbench.fusion.bounds import largest_float_input, meets_again, outputs, promoted_outputs
from normbench.fusion.hlo import Computation, Instruction, Module, Shape, inlined_entry
from normbench.fusion.launches import Launch

TRITON_ROW_LIMIT = 16384
"""Longest row, in elements, that XLA's Triton normalization rewriter takes: 16384 gives one launch, 16385 seven
(compiled with jax 0.10.2 to 0.12; the tests hold it)."""

_LARGE_SHARE = 0.25  # of the largest input: below that a launch is not worth a sentence
_FLOATS = ("f16", "bf16", "f32", "f64")


def hints(
    module: Module, launches: tuple[Launch, ...], unoptimised: Module | None, on_gpu: bool, xla_bytes: int | None
) -> tuple[str, ...]:
    """All hints for a compiled program.

    Args:
      module: the optimised module.
      launches: its launches.
      unoptimised: the module before optimisation, where it is at hand.
      on_gpu: whether it was compiled for a GPU.
      xla_bytes: bytes by XLA's own count, where it is at hand.
    """
    found = [*_promotion(module), *_upcasts(module, launches), *_transposes(module, launches)]
    found += _library_calls(launches, xla_bytes)
    if on_gpu and unoptimised is not None:
        found += _row_length(unoptimised, launches)
    return tuple(found)


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def _promotion(module: Module) -> list[str]:
    largest = largest_float_input(module)
    return [
        f"dtype promotion: the output {shape} is wider than the input {largest}, so "
        f"{_megabytes(_excess_bytes(shape, largest))} more are written than need be; mixed-dtype arithmetic promotes: "
        "cast back with .astype(x.dtype)"
        for shape in promoted_outputs(module)
        if largest is not None
    ]


def _excess_bytes(wide: Shape, narrow: Shape) -> float:
    return wide.elements * (wide.bits - narrow.bits) / 8


def _upcasts(module: Module, launches: tuple[Launch, ...]) -> list[str]:
    """Large tensors between launches in a wider dtype than the input that they are made of."""
    largest = largest_float_input(module)
    if largest is None:
        return []
    wide = []
    results = {shape.elements for shape in outputs(module)}
    final = _final_producers(module)
    for launch in launches:
        for shape in _result_shapes(launch):
            is_intermediate = launch.instruction.id not in final or shape.elements not in results
            if (
                is_intermediate
                and shape.element in _FLOATS
                and shape.bits > largest.bits
                and shape.elements >= largest.elements
            ):
                wide.append((launch, shape))
    return [
        f"materialised upcast: {launch.name} writes the intermediate {shape} ({_megabytes(shape.size_bytes)}), which "
        f"later launches read again, where the input is {largest.element}"
        for launch, shape in wide
    ]


def _final_producers(module: Module) -> set[int]:
    """Ids of the instructions whose results are results of the program."""
    entry = module.entry
    final, todo = set(), [entry.root]
    while todo:
        instruction = todo.pop()
        final.add(instruction.id)
        if instruction.opcode in ("tuple", "bitcast", "get-tuple-element"):
            todo += [entry.by_id[operand] for operand in instruction.operands]
    return final


def _result_shapes(launch: Launch) -> tuple[Shape, ...]:
    shape = launch.instruction.shape
    return shape.leaves if shape.element == "tuple" else (shape,)


def _transposes(module: Module, launches: tuple[Launch, ...]) -> list[str]:
    """Large launches that only bring data into another order, or only copy it."""
    largest = largest_float_input(module)
    if largest is None:
        return []
    found = []
    for launch in launches:
        if launch.kind not in ("transpose", "copy") or launch.read_bytes <= _LARGE_SHARE * largest.size_bytes:
            continue
        size = _megabytes(launch.read_bytes + launch.write_bytes)
        if _is_plain_copy(module, launch):
            found.append(
                f"copy: {launch.name} moves {size} only to copy; where an input is not needed afterwards, donate it "
                "(jax.jit(..., donate_argnums=...))"
            )
        else:
            found.append(
                f"transposed layout: {launch.name} moves {size} {_transposing(launch)}; another layout of the arrays "
                "would save it"
            )
    return found


def _is_plain_copy(module: Module, launch: Launch) -> bool:
    operand = module.entry.by_id.get(launch.instruction.operands[0]) if launch.instruction.operands else None
    return launch.instruction.opcode == "copy" and (operand is None or operand.shape == launch.instruction.shape)


def _transposing(launch: Launch) -> str:
    others = set(launch.ops) - {"transpose", "copy", "bitcast"}
    return "only to transpose" if not others else "and transposes on the way"


def _library_calls(launches: tuple[Launch, ...], xla_bytes: int | None) -> list[str]:
    calls = [launch for launch in launches if launch.instruction.opcode == "custom-call"]
    if not calls:
        return []
    size = sum(launch.read_bytes + launch.write_bytes for launch in calls)
    counted = "" if xla_bytes is None else f" (its total is {_megabytes(xla_bytes)})"
    names = ", ".join(dict.fromkeys(launch.instruction.custom_call_target for launch in calls))
    return [
        f"library call: XLA's own cost analysis counts zero bytes for {names}{counted}; "
        f"here their {_megabytes(size)} of operands and results count"
    ]


def _row_length(unoptimised: Module, launches: tuple[Launch, ...]) -> list[str]:
    """The cliff of the Triton normalization rewriter, and the form of the variance that it does not match."""
    if any(launch.kind == "triton" for launch in launches):
        return []
    entry = inlined_entry(unoptimised)
    rows = [_row(entry, instruction) for instruction in entry.instructions if _is_row_normalization(entry, instruction)]
    if not rows:
        return []
    longest = max(rows)
    if longest > TRITON_ROW_LIMIT:
        return [
            f"row length: XLA's Triton normalization rewriter takes rows of up to {TRITON_ROW_LIMIT} elements, and "
            f"these have {longest}; so the program falls into {len(launches)} launches that read the input again"
        ]
    if len(rows) > 1:
        return [
            f"not matched: XLA's Triton normalization rewriter looks for a reduction whose result meets its own input "
            f"again, one after the other; {len(rows)} reductions of the same rows side by side, as in E[x^2] - E[x]^2, "
            "are no such chain"
        ]
    return []


def _is_row_normalization(entry: Computation, instruction: Instruction) -> bool:
    """A reduction over the minor-most dimensions of the largest input, whose result meets the input again."""
    if instruction.opcode != "reduce":
        return False
    operand = entry.by_id[instruction.operands[0]]
    rank = len(operand.shape.dimensions)
    trailing = tuple(range(rank - len(instruction.dimensions), rank))
    largest = max(entry.parameters, key=lambda parameter: parameter.shape.elements, default=None)
    return (
        largest is not None
        and operand.shape.elements >= largest.shape.elements > 1
        and tuple(sorted(instruction.dimensions)) == trailing
        and meets_again(entry, instruction, largest)
    )


def _row(entry: Computation, reduction: Instruction) -> int:
    operand = entry.by_id[reduction.operands[0]]
    length = 1
    for dimension in reduction.dimensions:
        length *= operand.shape.dimensions[dimension]
    return length
