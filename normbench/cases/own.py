"""Problems of one's own: an operator, shapes that were typed or stand in a file, and what is meant where nothing is."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from normbench import kernels
from normbench.cases.case import Case
from normbench.cases.slugs import DTYPE_CODES, LAYOUT_BY_RANK, decode_value, parse_dtype, parse_layout, parse_shape
from normbench.errors import UserError, unknown
from normbench.kernels.problem import DTYPES, LAYOUTS, Problem
from normbench.kernels.registry import COMPILERS

PROVENANCE = "your own"
_LAST_BY_RANK = {len(name): name for name, axis in LAYOUTS.items() if axis == -1}
_MOST = 1000


@dataclass(frozen=True)
class Wanted:
    """What the problems share, as it was typed; a tuple stands for each of its values in turn, None for the default."""

    layout: str | None = None
    dtypes: tuple[str, ...] = ("float32",)
    param_dtype: str = "float32"
    passes: tuple[str, ...] = ("forward",)
    contexts: tuple[str, ...] = ("alone",)
    epsilon: float | None = None
    options: tuple[tuple[str, Any], ...] = ()


def own_cases(
    operators: Sequence[str],
    shapes: Iterable[str],
    wanted: Wanted,
    variants: Sequence[str] | None = None,
    file: Path | None = None,
) -> tuple[Case, ...]:
    """Every operator with every shape, dtype, pass and context, in all its variants or those named, the baseline first.

    Args:
      file: a shape on each line, and after it, where they differ from `wanted`, a layout and a dtype; what follows a
        "#" is kept as where the shape comes from.

    Raises:
      UserError: for an unknown name, a file that cannot be read, or a problem that makes no sense.
    """
    if not operators:
        raise UserError("shape: whose? name an operator before it, e.g. layer_norm --shape 8x197x768")
    lines = [(text, wanted, PROVENANCE) for text in shapes]
    lines += list(_of_file(file, wanted)) if file is not None else []
    found: dict[Problem, str] = {}
    for operator in operators:
        for text, settings, provenance in lines:
            for problem in _problems(operator, text, settings):
                found.setdefault(problem, provenance)
    if len(found) > _MOST:
        raise UserError(f"{len(found)} problems; allowed: at most {_MOST} in one study")
    return tuple(
        Case(problem, name, provenance)
        for problem, provenance in found.items()
        for name in _variants(problem.operator, variants)
    )


def _of_file(path: Path, wanted: Wanted) -> Iterator[tuple[str, Wanted, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"file of shapes {str(path)!r} cannot be read: {reason}") from error
    found = 0
    for number, line in enumerate(text.splitlines(), 1):
        fields, _, provenance = line.partition("#")
        if fields.split():
            found += 1
            shape, *words = fields.split()
            yield shape, _with_words(wanted, words, f"{path.name}:{number}"), provenance.strip() or PROVENANCE
    if not found:
        raise UserError(f"file of shapes {str(path)!r} has no shape; expected one a line, e.g. 8x197x768 bfloat16")


def _with_words(wanted: Wanted, words: Sequence[str], place: str) -> Wanted:
    for word in words:
        if word in LAYOUTS:
            wanted = replace(wanted, layout=word)
        elif word in DTYPES or word in DTYPE_CODES.values():
            wanted = replace(wanted, dtypes=(word,))
        else:
            raise unknown(f"layout or dtype in {place}", word, (*LAYOUTS, *DTYPES))
    return wanted


def _problems(operator: str, shape: str, wanted: Wanted) -> Iterator[Problem]:
    sizes = parse_shape(shape)
    extra = {} if wanted.epsilon is None else {"epsilon": wanted.epsilon}
    for dtype, pass_, context in product(wanted.dtypes, wanted.passes, wanted.contexts):
        problem = Problem(
            operator=operator,
            shape=sizes,
            layout=layout_of(operator, sizes, wanted.layout),
            dtype=parse_dtype(dtype),
            param_dtype=parse_dtype(wanted.param_dtype),
            pass_=pass_,
            context=context,
            options=wanted.options,
            **extra,
        )
        kernels.operator(operator).validate(problem)
        yield problem


def _variants(operator: str, chosen: Sequence[str] | None) -> tuple[str, ...]:
    if not chosen:
        return kernels.variants(operator)
    known = kernels.variants(operator, COMPILERS)
    for name in chosen:
        if name not in known:
            raise unknown(f"variant of {operator}", name, known)
    return tuple(name for name in known if name in chosen)


def layout_of(operator: str, shape: tuple[int, ...], typed: str | None) -> str:
    """The layout that was typed, else the one that is meant: channels first, and last for what normalizes rows.

    Raises:
      UserError: for a layout of another rank, or, where none was typed, a rank that the operator does not take.
    """
    rank = len(shape)
    if typed is not None:
        return parse_layout(typed, rank)
    for layout in (LAYOUT_BY_RANK[rank], _LAST_BY_RANK.get(rank)):
        if layout is not None and _takes(operator, layout):
            return layout
    ranks = sorted({len(name) for name in LAYOUTS if _takes(operator, name)})
    raise UserError(
        f"shape {'x'.join(map(str, shape))!r} has {rank} axes; allowed for {operator}: {', '.join(map(str, ranks))}"
    )


def _takes(operator: str, layout: str) -> bool:
    """Whether the operator knows the layout, whatever else it asks of a problem."""
    try:
        kernels.operator(operator).validate(Problem(operator, (8,) * len(layout), layout))
    except UserError as error:
        return not str(error).startswith("unknown layout")
    return True


def parse_options(texts: Sequence[str]) -> tuple[tuple[str, Any], ...]:
    """Reads NAME=VALUE of the command line, e.g. kernel=3x3, bias=true.

    Raises:
      UserError: where a text is none.
    """
    words = {"true": True, "false": False}
    found = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator:
            raise UserError(f"option {text!r}: expected NAME=VALUE, e.g. kernel=3x3")
        found[name] = words[value] if value in words else decode_value(value)
    return tuple(sorted(found.items()))
