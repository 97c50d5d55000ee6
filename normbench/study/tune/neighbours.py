"""What the search tries: configurations that cut the work of a kernel next to how its heuristic does."""

from collections.abc import Callable, Iterator
from typing import Any

from normbench.kernels.pallas.hardware import MOST_WARPS
from normbench.kernels.pallas.triton.groups_config import GroupConfig
from normbench.kernels.pallas.triton.inference import BlockConfig
from normbench.kernels.pallas.triton.rows_config import RowConfig
from normbench.kernels.pallas.triton.training_resident import ResidentConfig
from normbench.kernels.pallas.triton.training_shares import BatchConfig

Fields = dict[str, Any]


def neighbours(config: Any) -> dict[str, Fields]:
    """By name the fields of each configuration that has half, the same or twice the warps or the tile.

    What a program holds in registers stays there, and the other way round: that decides the bytes that are moved. Not
    every one of them compiles to something fast, or at all.
    """
    size, others = _SIZES[type(config)]
    if isinstance(config, RowConfig) and not config.resident:
        size, others = "chunk", _alone
    found = {}
    for warps in _around(config.warps, MOST_WARPS):
        for tile in _around(getattr(config, size), 2 * getattr(config, size)):
            fields = {"warps": warps, size: tile, **others(config, tile)}
            if any(getattr(config, name) != value for name, value in fields.items()):
                found[f"{warps} warps, {size} {tile}"] = fields
    return found


def _around(size: int, most: int) -> Iterator[int]:
    return (one for one in (size // 2, size, size * 2) if 1 <= one <= most)


def _rows(config: RowConfig, block_rows: int) -> Fields:
    """As many programs as there are blocks where each takes one step, as in a forward pass."""
    return {"programs": -(-config.rows // (block_rows * config.unroll))} if config.steps == 1 else {}


def _shares(config: BatchConfig, chunk: int) -> Fields:
    """Shares of the same size, so that there are as many partial sums."""
    return {"steps": max(1, config.steps * config.chunk // chunk)}


def _alone(config: Any, tile: int) -> Fields:
    return {}


_SIZES: dict[type, tuple[str, Callable[[Any, int], Fields]]] = {
    RowConfig: ("block_rows", _rows),
    GroupConfig: ("chunk", _alone),
    BatchConfig: ("chunk", _shares),
    ResidentConfig: ("chunk", _alone),
    BlockConfig: ("block_columns", _alone),
}
