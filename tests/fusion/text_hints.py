"""What the hints of a program must say, from its HLO text: a count that shares no code with the reader.

Where the reader goes from a result backwards to what it is made of, labels go forwards here, from the arguments, with
every value: the dtypes of which it is made element by element. A transposition is told by the order of the elements in
memory, and a copy's cause by the buffers.
"""

import math
import re
from dataclasses import dataclass

from tests.fusion.text_counter import BITS, FREE, Array, Buffer, Count, Launch, Text, flat, through_bitcasts

SHARE = 0.02  # of the program's bytes: what costs less is not worth a hint
LONGEST_ROW = 16384
WIDTHS = (0, 16, 32, 64)
FLOATS = {dtype for dtype in BITS if re.match(r"b?f\d", dtype)}
ELEMENTWISE = {
    "bitcast", "reshape", "transpose", "copy", "convert", "bitcast-convert", "reverse", "reduce-precision", "select",
    "compare", "clamp", "map", "add", "subtract", "multiply", "divide", "remainder", "power", "maximum", "minimum",
    "and", "or", "xor", "not", "negate", "abs", "sign", "exponential", "exponential-minus-one", "log", "log-plus-one",
    "logistic", "tanh", "erf", "rsqrt", "sqrt", "cbrt", "floor", "ceil", "round-nearest-even", "round-nearest-afz",
    "cosine", "sine", "tan", "atan2", "is-finite", "shift-left", "shift-right-logical", "shift-right-arithmetic",
    "popcnt", "clz", "opt-barrier", "get-tuple-element",
}  # fmt: skip
PRODUCTS = {"dot", "convolution", "custom-call"}


@dataclass(frozen=True)
class Hint:
    """The head of a sentence, and what stands in it: sizes, counts and names."""

    head: str
    says: tuple[str, ...]


@dataclass(frozen=True)
class Origin:
    """An array of as many elements that a value is made of."""

    dtype: str
    kind: str  # "argument", "product" or "other"


class Labelled(Count):
    """The walk of `Count`, in which every buffer carries what it is made of, for each width from which on it counts.

    `made[buffer][width]` is a set of origins: with a width, a narrower array on the way is one.
    """

    def __init__(self, text: str):
        self.made: dict[Buffer, dict[int, frozenset[Origin]]] = {}
        self.converted: set[Buffer] = set()  # nothing but a product in another dtype
        self.through: set[Buffer] = set()  # results that are a parameter of the fusion
        super().__init__(text)

    def label_of(self, buffer: Buffer) -> dict[int, frozenset[Origin]]:
        if buffer not in self.made:
            self.made[buffer] = own_label(buffer.array, "constant" if buffer.is_constant else self.kind_of(buffer))
        return self.made[buffer]

    def kind_of(self, buffer: Buffer) -> str:
        return "argument" if buffer.argument is not None else "other"

    def launch(self, computation, line, given, times, known):
        result = super().launch(computation, line, given, times, known)
        written, inputs = flat(result), flat(given)
        if line.opcode == "fusion":
            name = re.search(r"calls=%([\w.\-]+)", line.rest)[1]
            self.label_fusion(name, inputs, written)
        elif not line.opcode.endswith("-start"):
            label = combined(line.opcode, written[0].array, [(one.array, self.label_of(one)) for one in inputs])
            moved = line.opcode in ("convert", "copy", "transpose", "reshape") and inputs[0] in self.converted
            for one in written:
                self.made[one] = label if len(written) == 1 else own_label(one.array, kind(line.opcode))
                self.converted |= {one} if line.opcode in PRODUCTS or moved else set()
        return result

    def label_fusion(self, name, inputs, written):
        labels, products = self.inside(name, [self.label_of(one) for one in inputs], inputs)
        lines = {one.name: one for one in self.text.computations[name]}
        (root,) = (one for one in lines.values() if one.is_root)
        ends = root.operands if root.opcode == "tuple" else [root.name]
        for end, buffer in zip(ends, written, strict=True):
            self.made[buffer] = labels[end]
            self.converted |= {buffer} if end in products else set()
            self.through |= {buffer} if through_bitcasts(lines, lines[end]).opcode == "parameter" else set()

    def inside(self, name, given, inputs):
        """The label of every line of a computation, and the lines that are a product in whatever dtype."""
        labels, shapes, products = {}, {}, set()
        for line in self.text.computations[name]:
            called = re.search(r"(?:calls|to_apply)=%([\w.\-]+)", line.rest)
            shapes[line.name] = line.shape
            if line.opcode == "parameter":
                labels[line.name] = given[int(line.operands[0])]
                products |= {line.name} if inputs and inputs[int(line.operands[0])] in self.converted else set()
            elif line.opcode in ("fusion", "call"):
                inner, _ = self.inside(called[1], [labels[one] for one in line.operands], [])
                (root,) = (one for one in self.text.computations[called[1]] if one.is_root)
                labels[line.name] = inner[root.name]
            elif line.opcode != "tuple" and isinstance(line.shape, Array):
                operands = [(shapes[one], labels.get(one, {})) for one in line.operands]
                labels[line.name] = combined(line.opcode, line.shape, operands)
            moved = line.opcode in ("bitcast", "convert", "copy", "transpose", "reshape")
            if line.opcode in PRODUCTS or (moved and line.operands[0] in products):
                products.add(line.name)
        return labels, products

    def used(self) -> set[Buffer]:
        """What a launch reads, also one repetition later or as what a loop starts from."""
        found: set[Buffer] = set()
        todo = [buffer for launch in self.launches for buffer, _ in launch.read]
        while todo:
            if (buffer := todo.pop()) not in found:
                found.add(buffer)
                todo += [one for one in (buffer.before_loop, buffer.after_body) if one is not None]
        return found

    def line(self, launch: Launch):
        return next(one for lines in self.text.computations.values() for one in lines if one.name == launch.name)

    def lines_of(self, launch: Launch):
        line = self.line(launch)
        called = re.search(r"calls=%([\w.\-]+)", line.rest)
        return self.text.computations[called[1]] if line.opcode == "fusion" else [line]

    @property
    def minimum(self) -> int:
        return super().minimum - sum(excess for _, _, excess in self.promotions())

    def promotions(self) -> list[tuple[str, str, int]]:
        """(dtype, dtype of the widest that it is made of, bytes more than need be) of results."""
        found = []
        for result in self.results:
            array, made_of = result.array, self.label_of(result)[0]
            given = all(
                one.kind == "argument" or (one.kind == "product" and result not in self.converted) for one in made_of
            )
            widest = max((BITS[one.dtype] for one in made_of), default=0)
            if array.dtype in FLOATS and array.elements > 1 and given and 0 < widest < BITS[array.dtype]:
                narrow = next(one.dtype for one in made_of if BITS[one.dtype] == widest)
                found.append((array.dtype, narrow, array.elements * (BITS[array.dtype] - widest) // 8))
        return found


def own_label(array: Array, kind: str) -> dict[int, frozenset[Origin]]:
    counts = array.dtype in FLOATS and kind != "constant"
    return dict.fromkeys(WIDTHS, frozenset([Origin(array.dtype, kind)] if counts else []))


def kind(opcode: str) -> str:
    if opcode in ("broadcast", "iota", "constant"):
        return "constant"
    return "product" if opcode in PRODUCTS else "other"


def combined(opcode, array: Array, operands) -> dict[int, frozenset[Origin]]:
    """The label of what an operation makes of operands, (array, label) each."""
    if opcode not in ELEMENTWISE:
        return own_label(array, kind(opcode))
    alike = [label for one, label in operands if isinstance(one, Array) and one.elements == array.elements]
    merged = {width: frozenset().union(*(label.get(width, ()) for label in alike)) for width in WIDTHS}
    narrow = own_label(array, "other")
    return {width: narrow[width] if BITS[array.dtype] < width else merged[width] for width in WIDTHS}


# --- the hints ----------------------------------------------------------------------------------------------------


def size(count: float) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def hints(text: str, unoptimised: str | None = None) -> list[Hint]:
    """All but "few blocks", which rests on the grids. `unoptimised`: the text before optimisation, for a GPU alone."""
    count = Labelled(text)
    found = [*promoted(count), *upcasts(count), *transposed(count), *copied(count), *calls(count), *stacked(count)]
    found += unknown(count)
    assert "S(5)" not in text, "nothing here lies in the memory of the host"
    return found + (rows(count, Text(percent(unoptimised))) if unoptimised else [])


def promoted(count: Labelled) -> list[Hint]:
    return [Hint("dtype promotion", (wide, narrow, size(excess))) for wide, narrow, excess in count.promotions()]


def upcasts(count: Labelled) -> list[Hint]:
    """Arrays between launches, in a wider dtype than all that they are made of."""
    found, used = [], count.used() - set(count.results) - count.through
    for launch in count.launches:
        for buffer in (one for one in launch.results if one in used):
            bits, made_of = BITS[buffer.array.dtype], count.label_of(buffer).get(BITS[buffer.array.dtype], frozenset())
            if buffer.array.dtype in FLOATS and made_of and all(BITS[one.dtype] < bits for one in made_of):
                found.append((buffer.array.bytes * launch.times, launch.name))
    total = sum(one for one, _ in found)
    if total <= SHARE * count.bytes:
        return []
    if len(found) <= 3:
        return [Hint("materialised upcast", (name, size(one))) for one, name in found]
    largest = [name for _, name in sorted(found, key=lambda one: -one[0])[:3]]
    launches = len({name for _, name in found})
    return [Hint("materialised upcast", (f" {launches} launch", size(total), *largest))]


def moves_memory(lines) -> bool:
    """Whether any operation among them brings elements into another order in memory."""
    by_name = {one.name: one for one in lines}
    return any(
        memory_order(line.shape) != memory_order(by_name[line.operands[0]].shape, permutation(line))
        for line in lines
        if line.opcode in ("transpose", "copy") and isinstance(line.shape, Array) and line.operands[0] in by_name
    )


def permutation(line) -> list[int]:
    given = re.search(r"dimensions=\{([\d,]*)\}", line.rest) if line.opcode == "transpose" else None
    return [int(one) for one in given[1].split(",")] if given and given[1] else list(range(len(line.shape.sizes)))


def memory_order(array: Array, places: list[int] | None = None) -> list[int]:
    """The dimensions from the slowest to the fastest, as those of a result whose dimension i is `places[i]` here."""
    order = [dimension for dimension in reversed(array.minor_to_major) if array.sizes[dimension] > 1]
    return order if places is None else [places.index(dimension) for dimension in order]


def transposed(count: Labelled) -> list[Hint]:
    found = [launch for launch in count.launches if transposes(count, launch)]
    least, moved = SHARE * count.bytes, sum(one.bytes for one in found)
    if moved <= least:
        return []
    large = [one for one in found if one.bytes > least]
    if len(found) > 3 or not large:
        names = [one.name for one in sorted(found, key=lambda one: -one.bytes)[:3]]
        return [Hint("transposed layout", (f"{len(found)} launches", size(moved), *names))]
    return [Hint("transposed layout", (one.name, size(one.bytes))) for one in large]


def transposes(count: Labelled, launch: Launch) -> bool:
    """A launch that does nothing else; or whose kernel is that of a transposition, with arithmetic on the way."""
    line, lines = count.line(launch), count.lines_of(launch)
    if line.opcode == "copy":
        return copies_into_another_order(count, launch)
    work = work_of(lines)
    if work == {"copy"}:
        return copies(count, launch) and moves_memory(lines)
    tiled = "kind=kInput" in line.rest and not any(one.opcode == "reduce" for one in lines)
    return line.opcode in ("fusion", "transpose") and moves_memory(lines) and (work <= {"transpose", "copy"} or tiled)


def work_of(lines) -> set[str]:
    return {one.opcode for one in lines} - FREE - {"broadcast", "iota"}


def copies(count: Labelled, launch: Launch) -> bool:
    """Whether all that a launch does is to copy what it is given; a copy of what it fills in is none."""
    lines = {one.name: one for one in count.lines_of(launch)}
    return work_of(lines.values()) == {"copy"} and not any(
        one.opcode == "copy" and through_bitcasts(lines, lines[one.operands[0]]).opcode != "parameter"
        for one in lines.values()
        if one.operands and one.operands[0] in lines
    )


def copies_into_another_order(count: Labelled, launch: Launch) -> bool:
    if launch.opcode == "fusion":
        return moves_memory(count.lines_of(launch))
    (source,) = (buffer for buffer, _ in launch.read)
    return memory_order(source.array) != memory_order(launch.results[0].array)


def copied(count: Labelled) -> list[Hint]:
    """Plain copies by their cause, each cause with the words that only its sentence has."""
    groups: dict[str, list[Launch]] = {}
    for launch in plain_copies(count):
        groups.setdefault(cause(count, launch), []).append(launch)
    return [
        Hint("copy", (size(total), *(one.name for one in group[:3]), words))
        for words, group in groups.items()
        if (total := sum(one.bytes for one in group)) > SHARE * count.bytes
    ]


def plain_copies(count: Labelled) -> list[Launch]:
    return [one for one in count.launches if copies(count, one) and not copies_into_another_order(count, one)]


def cause(count: Labelled, launch: Launch) -> str:
    source, result = launch.read[0][0], launch.results[0]
    while source.before_loop is not None:
        source = source.before_loop
    given, places = count.text.aliases, [place for place, one in enumerate(count.results) if one is result]
    if source.argument in given.values() or any(place in given for place in places[:1]):
        return "results take the memory of donated arguments"
    if source.argument is None:
        return "only to copy"
    if places:
        return "is returned as it came"
    return "donate it (" if any(result in history(one) for one in count.results) else "only to copy"


def history(buffer: Buffer) -> list[Buffer]:
    """What a result is an update of, back to an argument."""
    found = [buffer]
    while (below := found[-1].updated or found[-1].before_loop) is not None:
        found.append(below)
    return found if found[-1].argument is not None else []


def calls(count: Labelled) -> list[Hint]:
    found: dict[str, list[tuple[str, Launch]]] = {}
    for launch in count.launches:
        line = count.line(launch)
        if line.opcode == "custom-call":
            target = re.search(r'custom_call_target="([^"]*)"', line.rest)[1]
            own = "triton" in target or "mosaic" in target
            found.setdefault("Pallas kernel" if own else "library call", []).append((target, launch))
    return [
        Hint(head, (size(sum(launch.bytes for _, launch in group)), *({t for t, _ in group} if "lib" in head else ())))
        for head, group in found.items()
    ]


def stacked(count: Labelled) -> list[Hint]:
    """Launches in loops that only copy a slice out of an array that the loop leaves as it is."""
    found = [one for one in count.launches if one.slices_only and one.known and one.outside_of_loop()]
    total = sum(one.bytes for one in found)
    if total <= SHARE * count.bytes:
        return []
    return [Hint("stacked arrays", (f"{len(found)} launches", size(total), f"{total / count.bytes:.0%} of all"))]


def unknown(count: Labelled) -> list[Hint]:
    found = [one for one in count.launches if not one.known]
    return [Hint("length unknown", (f"its {len(found)} launches",))] if found else []


# --- rows, before optimisation ------------------------------------------------------------------------------------


def percent(text: str) -> str:
    """Text of a module that was not optimised, its names marked as in that of one that was."""
    marked = []
    for line in text.splitlines():
        head = re.match(r"^(ENTRY )?([\w.\-]+) \{$", line)
        if head:
            line = f"{head[1] or ''}%{head[2]} () -> () {{"
        elif found := re.match(r"^(  (?:ROOT )?)([\w.\-]+ = .*)$", line):
            line = found[1] + re.sub(r"(?<![\w.\-%])([a-zA-Z_][\w\-]*\.\d+)(?![\w.\-])", r"%\1", found[2])
        marked.append(line)
    return "\n".join(marked)


def rows(count: Labelled, text: Text) -> list[Hint]:
    """Whether XLA's rewriter of row normalizations takes them, and why not."""
    tiled = [count.lines_of(one) for one in count.launches if "__triton" in count.line(one).rest]
    if any(line.opcode == "reduce" for lines in tiled for line in lines):
        return []
    lengths = Rows(text).lengths
    if lengths and max(lengths) > LONGEST_ROW:
        return [Hint("row length", (str(max(lengths)), f"{len(count.launches)} launches"))]
    return [Hint("not matched", (f"{len(lengths)} reductions",))] if len(lengths) > 1 else []


class Rows:
    """Reductions of the fastest dimensions of an array as large as the largest argument, which an array as large as
    that depends on: the number of elements that each result is of.

    Every value knows, as the walk comes to it, the reductions that it depends on.
    """

    def __init__(self, text: Text):
        self.text = text
        inputs = [line.shape for line in text.computations[text.entry] if line.opcode == "parameter"]
        self.largest = max((one.elements for one in inputs), default=0)
        self.reductions: list[int] = []
        self.again: set[int] = set()
        self.walk(text.entry, [frozenset()] * len(inputs))
        self.lengths = [length for place, length in enumerate(self.reductions) if place in self.again]

    def walk(self, name: str, arguments):
        lines = {line.name: line for line in self.text.computations[name]}
        after = {}
        for line in lines.values():
            after[line.name] = self.after(line, lines, after, arguments)
            if line.opcode not in ("broadcast", "tuple", "parameter", "call") and isinstance(line.shape, Array):
                large = line.shape.elements >= self.largest and line.shape.dtype in ("f16", "bf16", "f32", "f64")
                self.again |= after[line.name] if large else set()
        return next(after[line.name] for line in lines.values() if line.is_root)

    def after(self, line, lines, after, arguments):
        if line.opcode == "parameter":
            return arguments[int(line.operands[0])]
        before = [after[one] for one in line.operands]
        if line.opcode == "call":
            return self.walk(re.search(r"to_apply=%([\w.\-]+)", line.rest)[1], before)
        found = frozenset().union(*before)
        return found | {self.reduction(line, lines)} - {None} if line.opcode == "reduce" else found

    def reduction(self, line, lines) -> int | None:
        sizes = lines[line.operands[0]].shape.sizes
        reduced = sorted(int(one) for one in re.search(r"dimensions=\{([\d,]*)\}", line.rest)[1].split(",") if one)
        if math.prod(sizes) < self.largest or reduced != list(range(len(sizes) - len(reduced), len(sizes))):
            return None
        self.reductions.append(math.prod(sizes[one] for one in reduced))
        return len(self.reductions) - 1
