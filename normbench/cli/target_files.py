"""Descriptions of devices in files, as XLA dumps them (`*.gpu_target_config.pbtxt`) and keeps them for its own tests
(`xla/backends/gpu/target_config/specs/*.txtpb`).

XLA's newer files have fields that the compiler of an older JAX does not know, and would refuse: what the packaged
descriptions do not have is left out, and named.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from normbench.errors import UserError
from normbench.fusion.targets import target_from_config
from normbench.own_targets import OwnTarget, add
from normbench.schema import TARGETS

SUFFIXES = (".txtpb", ".pbtxt", ".textproto")
_KNOWN = {
    "": ("gpu_device_info", "platform_name", "dnn_version_info", "device_description_str"),
    "dnn_version_info": ("major", "minor", "patch"),
    "cuda_compute_capability": ("major", "minor", "feature_extension"),
    "gpu_device_info": (
        "name", "cuda_compute_capability", "platform_version", "core_count", "fpus_per_core", "clock_rate_ghz",
        "memory_bandwidth", "device_memory_size", "l2_cache_size", "shared_memory_per_block",
        "shared_memory_per_block_optin", "shared_memory_per_core", "registers_per_block_limit",
        "registers_per_core_limit", "threads_per_warp", "threads_per_block_limit", "threads_per_core_limit",
        "thread_dim_limit_x", "thread_dim_limit_y", "thread_dim_limit_z", "block_dim_limit_x", "block_dim_limit_y",
        "block_dim_limit_z", "device_vendor", "device_address_bits", "driver_version", "runtime_version",
        "compile_time_toolkit_version", "dnn_version",
    ),
}  # fmt: skip
"""Fields that every supported compiler reads, by the message that has them."""

Field = tuple[str, "str | list[Field]"]
_TOKEN = re.compile(r'\s*(?:#[^\n]*\n\s*)*("(?:[^"\\]|\\.)*"|[\w.+-]+|[{}<>:;,\[\]])')


def is_file(target: str) -> bool:
    """Whether a target is the path of a description rather than a name."""
    return target.endswith(SUFFIXES) or "/" in target


def add_file(path: Path) -> tuple[str, tuple[str, ...]]:
    """Makes the device that a file describes a target, and returns its name and the fields that were left out.

    Raises:
      UserError: where it cannot be read, is no description of a CUDA device, or has the name of a packaged target.
    """
    target, skipped = read_file(path)
    add(target)
    return target.name, skipped


def read_file(path: Path) -> tuple[OwnTarget, tuple[str, ...]]:
    """The same without making it known."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"target {str(path)!r} cannot be read: {reason}") from error
    name = re.sub(r"[^a-z0-9_]+", "_", path.name.split(".")[0].lower()).strip("_")
    if not name or name in TARGETS:
        raise UserError(f"target {str(path)!r} would be named {name!r}, which is taken; name the file otherwise")
    try:
        skipped: list[str] = []
        fields = _kept(_parsed(text), "", skipped)
        config = _named("\n".join(_written(fields)), fields, name)
        target_from_config(name, config)
        major, minor = _capability(fields)
    except ValueError as error:
        raise UserError(f"target {str(path)!r} is no description of a CUDA device: {error}") from error
    return OwnTarget(name, config, major, minor), tuple(dict.fromkeys(skipped))


def _parsed(text: str) -> list[Field]:
    tokens = _TOKEN.findall(f"{text}\n")
    rest = _TOKEN.sub("", f"{text}\n")
    if re.sub(r"#[^\n]*", "", rest).strip() or not tokens:
        raise ValueError("it is no text message")
    places = iter([*tokens, None])
    fields, end = _message(places)
    if end is not None:
        raise ValueError(f"{end!r} without its beginning")
    return fields


def _message(tokens: Iterator[str | None]) -> tuple[list[Field], str | None]:
    """Fields up to the end of the message, and the token that ended it."""
    fields: list[Field] = []
    for name in tokens:
        if name is None or name in ("}", ">"):
            return fields, name
        if name in (";", ","):
            continue
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise ValueError(f"{name!r} stands where the name of a field should")
        value = next(tokens)
        if value == ":":
            value = next(tokens)
        if value in ("{", "<"):
            inner, end = _message(tokens)
            if end is None:
                raise ValueError(f"{name} does not end")
            fields.append((name, inner))
        elif value is None:
            raise ValueError(f"{name} has no value")
        elif value == "[":
            items = list(iter(lambda: next(tokens), "]")) if name else []
            fields.append((name, f"[{' '.join(filter(None, items))}]"))
        else:
            fields.append((name, value))
    return fields, None


def _kept(fields: list[Field], message: str, skipped: list[str]) -> list[Field]:
    kept: list[Field] = []
    for name, value in fields:
        if name not in _KNOWN[message]:
            skipped.append(name)
        else:
            kept.append((name, value if isinstance(value, str) else _kept(value, name, skipped)))
    return kept


def _written(fields: list[Field], indent: str = "") -> Iterator[str]:
    for name, value in fields:
        if isinstance(value, str):
            yield f"{indent}{name}: {value}"
        else:
            yield f"{indent}{name} {{"
            yield from _written(value, f"{indent}  ")
            yield f"{indent}}}"


def _named(config: str, fields: list[Field], name: str) -> str:
    """With the device's name within the device's own facts, where XLA's specs may have it beside them alone."""
    info = _inner(fields, "gpu_device_info")
    if any(field == "name" for field, _ in info):
        return config
    described = next((value for field, value in fields if field == "device_description_str"), f'"{name}"')
    return config.replace("gpu_device_info {", f"gpu_device_info {{\n  name: {described}", 1)


def _capability(fields: list[Field]) -> tuple[int, int]:
    numbers = {field: value for field, value in _inner(_inner(fields, "gpu_device_info"), "cuda_compute_capability")}
    if "major" not in numbers:
        raise ValueError("it has no cuda_compute_capability")
    return int(str(numbers["major"])), int(str(numbers.get("minor", "0")))


def _inner(fields: list[Field], name: str) -> list[Field]:
    return next((value for field, value in fields if field == name and not isinstance(value, str)), [])
