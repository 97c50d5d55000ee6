"""Puts other functions in the place of values of a numbered StableHLO module (`normbench.jax_compat.provenance`)."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Place: TypeAlias = tuple[int, ...]
"""Numbers of the calls that lead to an operation, and its own; of an argument of the program (ARGUMENT, which)."""
ARGUMENT = -1

_NUMBER = re.compile(r"#t(\d+)")


@dataclass(frozen=True)
class Handed:
    """Result number `result` of the call number `call`, which was put in before."""

    call: int
    result: int


Source: TypeAlias = Place | Handed | float
"""An operand: a value of the program, a result of an earlier call, or a number that fills it."""


@dataclass(frozen=True)
class Call:
    """A function that is called as soon as its operands are there.

    Attributes:
      module: StableHLO, as bytecode; its `main` is the function.
      operands: one for each argument, converted and reshaped to its type.
      results: by the number of a result the values in whose place it stands, converted and reshaped to their types.
      zeroed: values that are filled with zeros.
    """

    module: bytes
    operands: tuple[Source, ...]
    results: Mapping[int, Sequence[Place]]
    zeroed: tuple[Place, ...] = ()


def rewritten(bytecode: bytes, calls: Sequence[Call]) -> bytes:
    """The module with the calls put in, in order; what nothing reads any more is left to the compiler.

    Raises:
      LookupError: where a value is not in the program's outermost computation but in a loop or branch, has another
        number of elements than what stands for it, or is used before what replaces it is there.
    """
    from jax._src.interpreters import mlir
    from jaxlib.mlir import ir

    with mlir.make_ir_context(), ir.Location.unknown():
        module = ir.Module.parse(bytecode)
        surgery = _Surgery(ir, module)
        made: list[Any] = []
        for call in calls:
            made.append(surgery.put(call, made))
        try:
            module.operation.verify()
        except ir.MLIRError as error:
            raise LookupError(f"the program is no longer one: {str(error).splitlines()[0]}") from None
        buffer = io.BytesIO()
        module.operation.write_bytecode(buffer)
        return buffer.getvalue()


class _Surgery:
    """A module that is being rewritten: `main` with everything that it calls in it, and its values by place."""

    def __init__(self, ir: Any, module: Any):
        self._ir, self._module = ir, module
        self._functions = _functions(module)
        self._block = self._functions["main"].regions[0].blocks[0]
        self._values: dict[Place, Any] = {(ARGUMENT, i): one for i, one in enumerate(self._block.arguments)}
        self._added: dict[bytes, str] = {}
        for operation in [one.operation for one in self._block.operations]:
            self._settle(operation, ())

    def _settle(self, operation: Any, path: Place) -> list[Any]:
        """Learns where an operation is, puts what it calls in its place, and returns its results."""
        own = (*path, *_numbers(operation))
        if operation.name != "func.call":
            if len(operation.results) == 1:
                self._values[own] = operation.results[0]
            return list(operation.results)
        body = self._functions[operation.attributes["callee"].value].regions[0].blocks[0]
        known = dict(zip(body.arguments, operation.operands, strict=True))
        returned: list[Any] = []
        for inner in [one.operation for one in body.operations]:
            if inner.name == "func.return":
                returned = [known[one] for one in inner.operands]
                break
            copy = inner.clone(self._ir.InsertionPoint(operation)).operation
            _redirect(copy, known)
            known.update(zip(inner.results, self._settle(copy, own), strict=True))
        for old, new in zip(operation.results, returned, strict=True):
            old.replace_all_uses_with(new)
        operation.erase()
        return returned

    def put(self, call: Call, made: Sequence[Any]) -> Any:
        """Puts a call in, and returns its operation."""
        name = self._function(call.module)
        types = self._ir.FunctionType(self._functions[name].attributes["function_type"].value)
        operands = [self._operand(source, made) for source in call.operands]
        with self._after([one for one in operands if not isinstance(one, float)]):
            inputs = [self._fitted(one, type_) for one, type_ in zip(operands, types.inputs, strict=True)]
            symbol = self._ir.FlatSymbolRefAttr.get(name)
            put = self._ir.Operation.create(
                "func.call", results=list(types.results), operands=inputs, attributes={"callee": symbol}
            )
            for result, places in call.results.items():
                for place in places:
                    self._exchange(place, put.results[result])
            for place in call.zeroed:
                self._exchange(place, 0.0)
        return put

    def _operand(self, source: Source, made: Sequence[Any]) -> Any:
        if isinstance(source, Handed):
            return made[source.call].results[source.result]
        return source if isinstance(source, float) else self._at(source)

    def _exchange(self, place: Place, new: Any) -> None:
        old = self._at(place)
        fitted = self._fitted(new, old.type)
        old.replace_all_uses_with(fitted)
        self._values[place] = fitted

    def _at(self, place: Place) -> Any:
        if place not in self._values:
            raise LookupError(f"operation {place} is in a loop or a branch, or has several results")
        return self._values[place]

    def _after(self, operands: Sequence[Any]) -> Any:
        """Right after the last operation that an operand comes from."""
        last = None
        for value in operands:
            owner = value.owner
            if isinstance(owner, self._ir.Block):
                continue
            operation = owner.operation
            if last is None or last.is_before_in_block(operation):
                last = operation
        return (
            self._ir.InsertionPoint.at_block_begin(self._block) if last is None else self._ir.InsertionPoint.after(last)
        )

    def _fitted(self, value: Any, wanted: Any) -> Any:
        """A value, or a number, in the shape and dtype that are wanted."""
        ir, to = self._ir, self._ir.RankedTensorType(wanted)
        if isinstance(value, float):
            number = (
                ir.FloatAttr.get(to.element_type, value) if _is_float(to) else ir.IntegerAttr.get(to.element_type, 0)
            )
            splat = ir.DenseElementsAttr.get_splat(to, number)
            return ir.Operation.create("stablehlo.constant", results=[to], attributes={"value": splat}).results[0]
        found = ir.RankedTensorType(value.type)
        if math.prod(found.shape) != math.prod(to.shape):
            raise LookupError(f"{found} is put in the place of {to}")
        if list(found.shape) != list(to.shape):
            reshaped = ir.RankedTensorType.get(to.shape, found.element_type)
            value = ir.Operation.create("stablehlo.reshape", results=[reshaped], operands=[value]).results[0]
        if found.element_type != to.element_type:
            value = ir.Operation.create("stablehlo.convert", results=[to], operands=[value]).results[0]
        return value

    # --- the functions that are called

    def _function(self, bytecode: bytes) -> str:
        """The name, in this module, of the `main` of another one; equal ones are there once."""
        if bytecode in self._added:
            return self._added[bytecode]
        other, prefix = self._ir.Module.parse(bytecode), f"put_in_{len(self._added)}_"
        table = self._ir.SymbolTable
        names = list(_functions(other))
        for name in names:
            table.replace_all_symbol_uses(name, prefix + name, other.operation)
        for name, function in _functions(other).items():
            table.set_symbol_name(function, prefix + name)
            table.set_visibility(function, "private")
            _plain(function)
            function.detach_from_parent()
            self._module.body.append(function)
            self._functions[prefix + name] = function
        self._added[bytecode] = f"{prefix}main"
        return self._added[bytecode]


def _functions(module: Any) -> dict[str, Any]:
    operations = [one.operation for one in module.body.operations]
    return {one.attributes["sym_name"].value: one for one in operations if one.name == "func.func"}


def _numbers(operation: Any) -> tuple[int, ...]:
    try:
        name = operation.location.name_str
    except (ValueError, AttributeError):
        return ()
    return tuple(int(number) for number in _NUMBER.findall(name))


def _redirect(operation: Any, known: Mapping[Any, Any]) -> None:
    """Lets a copy, and what is in its regions, read the values that stand for those of the original."""
    for place, operand in enumerate(operation.operands):
        if operand in known:
            operation.operands[place] = known[operand]
    for region in operation.regions:
        for block in region.blocks:
            for inner in block.operations:
                _redirect(inner.operation, known)


def _is_float(type_: Any) -> bool:
    return str(type_.element_type).startswith(("f", "bf"))


def _plain(function: Any) -> None:
    """Takes off what only the arguments and results of a whole program have: shardings, donation, names."""
    for name in ("arg_attrs", "res_attrs"):
        if name in function.attributes:
            del function.attributes[name]
