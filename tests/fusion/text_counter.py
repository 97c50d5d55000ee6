"""Counts launches, bytes, operations and the minimum of an optimised module from its *text*.

It shares nothing with the reader but the rules, and goes another way: what a launch reads of an operand is asked for
from the launch's results backwards, and values are followed as buffers.
"""

import itertools
import math
import re
from dataclasses import dataclass, field

BITS = {
    "pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "s32": 32, "u32": 32, "s64": 64, "u64": 64,
    "f8e4m3fn": 8, "f8e5m2": 8, "f16": 16, "bf16": 16, "f32": 32, "f64": 64, "c64": 64, "token": 0, "opaque": 0,
}  # fmt: skip
FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "add-dependency", "opt-barrier",
    "partition-id", "replica-id",
}  # fmt: skip
SLICING = {"slice", "dynamic-slice", "gather"}
UNARY = {
    "bitcast", "reshape", "transpose", "copy", "convert", "negate", "abs", "exponential", "rsqrt", "sqrt",
}  # fmt: skip
NOTHING_MOVES = [f'custom_call_target="{name}"' for name in (
    "AllocateBuffer", "ConcatBitcast", "PrepareAsyncCallStart", "PrepareAsyncCallDone")]  # fmt: skip
PAIRED = {"copy-start": 0, "all-gather-start": 1, "collective-permute-start": 1, "all-reduce-start": None}


@dataclass(frozen=True)
class Array:
    dtype: str
    sizes: tuple[int, ...]
    minor_to_major: tuple[int, ...] = field(default=(), compare=False)
    tile: tuple[int, ...] = field(default=(), compare=False)  # of a TPU: T(8,128)
    space: int = field(default=0, compare=False)  # S(1) is a TPU's VMEM

    @property
    def elements(self):
        return math.prod(self.sizes)

    def moved(self, elements=None) -> int:
        """Bytes of device memory that so many of its elements are, with their share of what fills up the tiles."""
        elements = self.elements if elements is None else min(elements, self.elements)
        if self.space or not self.elements:
            return 0
        filled = 1
        for place, dimension in enumerate(self.minor_to_major):
            side = self.tile[-1 - place] if place < len(self.tile) else 1
            filled *= math.ceil(self.sizes[dimension] / side) * side
        for side in self.tile[: max(0, len(self.tile) - len(self.sizes))] if self.sizes else ():
            filled *= side
        filled = filled if self.tile and self.sizes else self.elements
        return math.ceil(elements * BITS[self.dtype] * filled // self.elements / 8)

    @property
    def bytes(self):
        return (self.elements * BITS[self.dtype] + 7) // 8


@dataclass
class Line:
    name: str
    shape: object  # an Array, or a list of such
    opcode: str
    operands: list[str]
    rest: str
    is_root: bool


@dataclass(eq=False)
class Buffer:
    """What is in memory: who wrote it (the number of a launch; None for an argument, a constant)."""

    array: Array
    writer: int | None = None
    argument: int | None = None
    is_constant: bool = False
    updated: "Buffer | None" = None  # that it is, but for `touched` bytes
    touched: int = 0
    before_loop: "Buffer | None" = None
    after_body: "Buffer | None" = None


@dataclass
class Launch:
    name: str
    opcode: str
    times: int
    known: bool
    read: list[tuple[Buffer, int]]
    written: int
    flops: float | None
    results: list[Buffer] = field(default_factory=list)
    slices_only: bool = False

    @property
    def bytes(self):
        return self.times * (sum(size for _, size in self.read) + self.written)

    def outside_of_loop(self) -> bool:
        largest = max((buffer for buffer, _ in self.read), key=lambda buffer: buffer.array.bytes)
        return self.times > 1 and largest.before_loop is None and largest.array.bytes > self.written


class Text:
    """The computations of a module, parsed."""

    def __init__(self, text: str):
        self.computations: dict[str, list[Line]] = {}
        self.entry = ""
        header = text.split("\n", 1)[0]
        found = re.search(r"input_output_alias=\{(.*?)\}, entry_computation_layout", header)
        pairs = re.findall(r"\{(\d*)\}: \((\d+), \{\}", found[1] if found else "")
        self.aliases = {int(place or 0): int(argument) for place, argument in pairs}
        current: list[Line] = []
        for line in text.splitlines():
            head = re.match(r"^(ENTRY )?%(\S+) \(.*\) -> .* \{", line)
            if head:
                current = self.computations.setdefault(head[2], [])
                self.entry = head[2] if head[1] else self.entry
            elif " = " in line and line.startswith("  "):
                current.append(parse_line(line))


def parse_line(text: str) -> Line:
    text = re.sub(r"/\*.*?\*/", "", text).strip()
    is_root = text.startswith("ROOT ")
    name, text = text.removeprefix("ROOT ").split(" = ", 1)
    shape, text = parse_shape(text)
    opcode, text = text.strip().split("(", 1)
    inside, rest = balanced("(" + text)
    operands = re.findall(r"%([\w.\-]+)", inside) if opcode != "constant" else []
    if opcode == "parameter":
        operands = [inside]
    return Line(name.lstrip("%"), shape, opcode, operands, rest, is_root)


def balanced(text: str) -> tuple[str, str]:
    """The inside of the leading parentheses, and what follows."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return text[1:place], text[place + 1 :]
    raise ValueError(text)


def parse_shape(text: str):
    if text.startswith("("):
        inside, rest = balanced(text)
        members = []
        while inside.strip():
            member, inside = parse_shape(inside.strip().lstrip(",").strip())
            members.append(member)
        return members, rest
    found = re.match(r"(\w+)(?:\[([\d,]*)\])?(?:\{([\d,]*)([^}]*)\})?", text)
    sizes, order = (tuple(map(int, part.split(","))) if part else () for part in found.groups()[1:3])
    tile = re.search(r"T\(([\d,]+)\)", found[4] or "")
    space = re.search(r"S\((\d+)\)", found[4] or "")
    sides = tuple(map(int, tile[1].split(","))) if tile else ()
    return Array(found[1], sizes, order, sides, int(space[1]) if space else 0), text[found.end() :]


def arrays(shape) -> list[Array]:
    return [shape] if isinstance(shape, Array) else [one for member in shape for one in arrays(member)]


def flat(value) -> list[Buffer]:
    return [value] if isinstance(value, Buffer) else [one for member in value for one in flat(member)]


class Count:
    """Walks a module in the order of execution."""

    def __init__(self, text: str):
        self.text = Text(text)
        self.launches: list[Launch] = []
        entry = self.text.computations[self.text.entry]
        inputs = sorted((line for line in entry if line.opcode == "parameter"), key=lambda line: int(line.operands[0]))
        self.arguments = [Buffer(line.shape, argument=place) for place, line in enumerate(inputs)]
        self.constants: list[Buffer] = []
        self.results = flat(self.run(self.text.entry, self.arguments, 1, True))

    # --- execution

    def run(self, name: str, arguments, times: int, known: bool):
        values = {}
        for line in self.text.computations[name]:
            values[line.name] = result = self.step(name, line, values, arguments, times, known)
            if line.is_root:
                root = result
        return root

    def step(self, computation, line, values, arguments, times, known):
        opcode = line.opcode
        if opcode == "parameter":
            return arguments[int(line.operands[0])]
        given = [values[name] for name in line.operands]
        if opcode == "constant":
            self.constants.append(Buffer(line.shape, is_constant=True))
            return self.constants[-1]
        if opcode == "tuple":
            return given
        if opcode == "get-tuple-element":
            whole = given[0]
            return whole[int(re.search(r"index=(\d+)", line.rest)[1])] if isinstance(whole, list) else whole
        if opcode in ("bitcast", "opt-barrier", "add-dependency") or opcode.endswith(("-done", "-update")):
            return given[0]
        if opcode == "while":
            return self.loop(line, given[0], times, known)
        if opcode == "conditional":
            return self.branches(line, given, times, known)
        if opcode == "call":
            return self.run(re.search(r"to_apply=%([\w.\-]+)", line.rest)[1], given, times, known)
        if opcode in FREE or any(name in line.rest for name in NOTHING_MOVES):
            return next(Buffer(one) for one in arrays(line.shape))
        return self.launch(computation, line, given, times, known)

    def loop(self, line, start, times, known):
        count = re.search(r'"known_trip_count":\{"n":"(\d+)"', line.rest)
        body, condition = (re.search(rf"{part}=%([\w.\-]+)", line.rest)[1] for part in ("body", "condition"))
        inside = times * (int(count[1]) if count else 1)
        kept = self.kept(body)
        carried = [one if place in kept else Buffer(one.array, before_loop=one) for place, one in enumerate(start)]
        if not count:
            self.run(condition, [carried], inside, False)
        end = self.run(body, [carried], inside, known and bool(count))
        for before, after in zip(carried, end, strict=True):
            if before.before_loop is not None:
                before.after_body = after
        return end

    def kept(self, body: str) -> set[int]:
        """Members of a loop's state that its body returns as they came."""
        lines = {line.name: line for line in self.text.computations[body]}
        (root,) = (line for line in lines.values() if line.is_root)
        return {place for place, name in enumerate(root.operands) if self.member(lines, name) == place}

    def member(self, lines, name) -> int | None:
        line = lines[name]
        if line.opcode != "get-tuple-element":
            return None
        place = int(re.search(r"index=(\d+)", line.rest)[1])
        whole = lines[line.operands[0]]
        if whole.opcode == "parameter":
            return place
        if whole.opcode == "while" and place in self.kept(re.search(r"body=%([\w.\-]+)", whole.rest)[1]):
            return self.member(lines, lines[whole.operands[0]].operands[place])
        return None

    def branches(self, line, given, times, known):
        names = re.search(r"branch_computations=\{(.*?)\}", line.rest)
        found = re.findall(r"%([\w.\-]+)", names[1]) if names else []
        found = found or [re.search(rf"{word}_computation=%([\w.\-]+)", line.rest)[1] for word in ("true", "false")]
        before, tried = len(self.launches), []
        for name, argument in zip(found, given[1:], strict=True):
            root = self.run(name, [argument], times, known)
            tried.append((root, self.launches[before:]))
            del self.launches[before:]
        chosen = max(range(len(tried)), key=lambda place: (sum(x.bytes for x in tried[place][1]), -place))
        return self.again(found[chosen], given[chosen + 1], times, known)

    def again(self, name, argument, times, known):
        return self.run(name, [argument], times, known)

    # --- one launch

    def launch(self, computation, line, given, times, known):
        number = len(self.launches)
        opcode, shape = line.opcode, line.shape
        if opcode == "async-start":
            called = re.search(r"calls=%([\w.\-]+)", line.rest)[1]
            return self.run(called, given, times, known)
        if opcode in PAIRED:
            shape = shape if PAIRED[opcode] is None else shape[PAIRED[opcode]]
        elif opcode.endswith("-start"):
            opcode, shape = opcode.removesuffix("-start"), shape[1]
        results = [Buffer(one, writer=number) for one in arrays(shape)]
        launch = Launch(line.name, opcode, times, known, [], 0, 0.0, results)
        self.launches.append(launch)
        if opcode == "fusion":
            self.fusion(launch, line, given)
        else:
            self.single(launch, line, opcode, given)
        return results[0] if isinstance(shape, Array) else self.shaped(shape, iter(results))

    def shaped(self, shape, results):
        return [next(results) if isinstance(one, Array) else self.shaped(one, results) for one in shape]

    def single(self, launch, line, opcode, given):
        inputs = flat(given)
        launch.read = [(one, one.array.moved()) for one in inputs]
        launch.written = sum(one.array.moved() for one in launch.results)
        if opcode in SLICING:
            given, part = inputs[0].array, launch.results[0].array
            raw = min(given.moved(), part.bytes)  # where a bitcast has made plain bytes of it, its padding among them
            launch.read[0] = (inputs[0], given.moved(part.elements) if given.dtype == part.dtype else raw)
        if opcode == "dynamic-update-slice":
            self.in_place(launch, inputs, inputs[1].array.elements, reads=False)
        if opcode == "scatter":
            self.in_place(launch, inputs, inputs[2].array.elements, reads=self.combines(line))
        if opcode == "copy":
            launch.results[0].updated = inputs[0]
        if opcode == "custom-call" and re.search(r'custom_call_target="__cu(blas|dnn)\$', line.rest):
            last = launch.results[-1].array
            launch.written -= last.bytes if len(launch.results) > 1 and last.dtype in ("s8", "u8") else 0
        if opcode in ("dot", "convolution", "custom-call"):
            launch.flops = product(line, [one.array for one in inputs], launch.results[0].array)

    def in_place(self, launch, inputs, elements, reads):
        array = launch.results[0].array
        moved, touched = array.moved(elements), min(array.bytes, elements * BITS[array.dtype] // 8)
        launch.read[0] = (inputs[0], moved * reads)
        launch.written = moved
        launch.results[0].updated, launch.results[0].touched = inputs[0], touched * launch.times

    def combines(self, line) -> bool:
        applied = self.text.computations[re.search(r"to_apply=%([\w.\-]+)", line.rest)[1]]
        return not any(one.is_root and one.opcode == "parameter" for one in applied)

    def fusion(self, launch, line, given):
        name = re.search(r"calls=%([\w.\-]+)", line.rest)[1]
        lines = {one.name: one for one in self.text.computations[name]}
        (root,) = (one for one in lines.values() if one.is_root)
        ends = [lines[one] for one in root.operands] if root.opcode == "tuple" else [root] * len(launch.results)
        wanted: dict[str, int] = {}
        inputs = {one.name: given[int(one.operands[0])] for one in lines.values() if one.opcode == "parameter"}
        for end, result in zip(ends, launch.results, strict=True):
            last = through_bitcasts(lines, end)
            updated = self.updated(lines, last, result, launch.times)
            result.updated = None if updated is None else inputs[updated[0]]
            if last.opcode == "copy":
                origin = through_bitcasts(lines, lines[last.operands[0]])
                result.updated = inputs.get(origin.name)
            launch.written += result.array.moved() if updated is None else updated[1]
            wanted[end.name] = wanted.get(end.name, 0) + result.array.elements
        self.ask(lines, wanted, {end.name for end in ends}, launch.times)
        launch.read = [(inputs[one], buffer.array.moved(wanted.get(one, 0))) for one, buffer in inputs.items()]
        launch.flops = self.inner_flops(name)
        work = {one.opcode for one in lines.values() if isinstance(one.shape, Array) and one.shape.elements > 1}
        launch.slices_only = work - FREE - {"copy"} == {"dynamic-slice"}

    def updated(self, lines, last, result, times):
        """(parameter, bytes) where a result is a parameter of which a part is replaced."""
        if last.opcode not in ("dynamic-update-slice", "scatter"):
            return None
        origin = through_bitcasts(lines, lines[last.operands[0]])
        if origin.opcode != "parameter":
            return None
        update = lines[last.operands[1 if last.opcode == "dynamic-update-slice" else 2]].shape
        touched = min(result.array.bytes, update.elements * BITS[result.array.dtype] // 8)
        result.touched = touched * times
        return origin.name, result.array.moved(update.elements)

    def ask(self, lines, wanted, ends, times):
        """From the results backwards: how many elements of each value are read."""
        for line in reversed(list(lines.values())):
            asked = wanted.get(line.name, 0)
            if not asked or line.opcode in ("parameter", "tuple"):
                continue
            whole = line.shape.elements if isinstance(line.shape, Array) else None
            for place, name in enumerate(line.operands):
                operand = lines[name].shape
                size = operand.elements if isinstance(operand, Array) else sum(x.elements for x in arrays(operand))
                if place == 0 and line.opcode in SLICING and name not in line.operands[1:]:
                    size = min(size, asked, line.shape.elements)
                elif place == 0 and self.stays(lines, line, ends):
                    size = self.reread(lines, line, size)
                elif line.opcode in UNARY and whole == size and line.name not in ends:
                    size = min(asked, size)
                wanted[name] = wanted.get(name, 0) + size

    def stays(self, lines, line, ends) -> bool:
        """Whether the first operand is updated where it is."""
        if line.opcode not in ("dynamic-update-slice", "scatter"):
            return False
        if through_bitcasts(lines, lines[line.operands[0]]).opcode != "parameter":
            return False
        users = [other for other in lines.values() if line.name in other.operands]
        return all(user.opcode in ("bitcast", "tuple") for user in users)

    def reread(self, lines, line, size) -> int:
        if line.opcode == "dynamic-update-slice" or not self.combines(line):
            return 0
        return min(size, lines[line.operands[2]].shape.elements)

    def inner_flops(self, name) -> float | None:
        lines = {one.name: one for one in self.text.computations[name]}
        total = 0.0
        for one in lines.values():
            if one.opcode == "fusion":
                total += self.inner_flops(re.search(r"calls=%([\w.\-]+)", one.rest)[1])
            if one.opcode in ("dot", "convolution"):
                total += product(one, [lines[operand].shape for operand in one.operands], one.shape)
        return total

    # --- what is asked of it

    @property
    def executed(self) -> int:
        return sum(launch.times for launch in self.launches)

    @property
    def bytes(self) -> int:
        return sum(launch.bytes for launch in self.launches)

    @property
    def flops(self) -> float:
        return sum(launch.times * launch.flops for launch in self.launches if launch.flops)

    @property
    def minimum(self) -> int:
        """Every argument and captured array once, as far as it is read; every result once, as far as it is new."""
        read: dict[Buffer, int] = {}
        for launch in self.launches:
            for buffer, size in launch.read:
                times = launch.times
                while buffer.before_loop is not None:
                    buffer, times = buffer.before_loop, 1
                read[buffer] = read.get(buffer, 0) + times * size
        inputs = [*self.arguments, *(one for one in self.constants if one.array.elements > 1)]
        total = sum(min(one.array.bytes, read.get(one, 0)) for one in inputs)
        return total + sum(self.new(place, one) for place, one in enumerate(self.results))

    def new(self, place: int, result: Buffer) -> int:
        touched, buffer = 0, result
        while (below := buffer.updated or buffer.before_loop) is not None:
            touched += buffer.touched
            buffer = below
        given = buffer.argument is not None and self.text.aliases.get(place) == buffer.argument
        return min(result.array.bytes, touched) if given else result.array.bytes

    def edges(self) -> set[tuple[int, int]]:
        """(writer, reader) of every launch that reads what another writes, also one repetition later."""
        return {
            (writer, number)
            for number, launch in enumerate(self.launches)
            for buffer, _ in launch.read
            for writer in writers(buffer, set())
        }


def writers(buffer: Buffer, seen: set) -> set[int]:
    if buffer in seen:
        return set()
    seen.add(buffer)
    found = {buffer.writer} - {None}
    for other in (buffer.before_loop, buffer.after_body):
        found |= writers(other, seen) if other is not None else set()
    return found


def through_bitcasts(lines, line):
    while line.opcode == "bitcast":
        line = lines[line.operands[0]]
    return line


def product(line: Line, operands: list[Array], result: Array) -> float | None:
    """Two operations for every pair of numbers that is multiplied."""
    if line.opcode == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", line.rest)[1]
        return 2.0 * result.elements * math.prod(operands[0].sizes[int(d)] for d in contracted.split(",") if d)
    target = re.search(r'custom_call_target="([^"]*)"', line.rest)
    roles = [operands[0], operands[1], result] if len(operands) > 1 else []
    if target and target[1].startswith("__cublas"):
        contracted = re.search(r'"lhs_contracting_dimensions":\["(\d+)"\]', line.rest)[1]
        return 2.0 * result.elements * operands[0].sizes[int(contracted)]
    if target and "convBackwardInput" in target[1]:
        roles = [result, operands[1], operands[0]]
    elif target and "convBackwardFilter" in target[1]:
        roles = [operands[0], result, operands[1]]
    elif target and "conv" not in target[1]:
        return None
    return convolution(line, *roles)


def convolution(line: Line, image: Array, kernel: Array, output: Array) -> float:
    left, right, out = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", line.rest).groups()
    window = re.search(r"window=\{([^}]*)\}", line.rest)
    parts = dict(part.split("=") for part in window[1].split()) if window else {}
    groups = re.search(r"batch_group_count=(\d+)", line.rest)
    meetings = 1
    for place, name in enumerate(sorted(set(left) - set("bf"))):
        sizes = [int(part.split("x")[place]) for part in (parts["size"], *(parts.get(k, "1x1x1") for k in (
            "stride", "rhs_dilate", "lhs_dilate")))]  # fmt: skip
        low = int(parts.get("pad", "0_0x0_0x0_0").split("x")[place].split("_")[0])
        size, stride, spread, hole = sizes
        pixels = image.sizes[left.index(name)]
        meetings *= sum(
            (spot := at * stride + tap * spread - low) % hole == 0 and 0 <= spot <= (pixels - 1) * hole
            for at, tap in itertools.product(range(output.sizes[out.index(name)]), range(size))
        )
    batch = image.sizes[left.index("b")] // (int(groups[1]) if groups else 1)
    return 2.0 * batch * kernel.sizes[right.index("i")] * output.sizes[out.index("f")] * meetings
