"""Numbers as people read them: times with their unit, ratios, counts."""

import math

TIME_UNITS = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9))


def time_unit(seconds: float) -> tuple[str, float]:
    """The largest unit in which `seconds` is at least 1, as (name, seconds per unit)."""
    for name, scale in TIME_UNITS:
        if seconds >= scale:
            return name, scale
    return TIME_UNITS[-1]


def digits(value: float, significant: int = 3) -> str:
    """`value` with at least `significant` significant digits, never in exponent form below 1e6."""
    if not math.isfinite(value):
        return "inf" if value > 0 else "-inf" if value < 0 else "nan"
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    if magnitude >= 6 or magnitude < -4:
        return f"{value:.{significant - 1}e}"
    return f"{value:.{max(0, significant - 1 - magnitude)}f}"


def duration(seconds: float) -> str:
    """12.3 µs."""
    name, scale = time_unit(seconds)
    return f"{digits(seconds / scale)} {name}"


def microseconds(seconds: float) -> str:
    """In microseconds, from 10 ms on in milliseconds."""
    return f"{seconds * 1e6:.1f} us" if seconds < 1e-2 else f"{digits(seconds * 1e3, 4)} ms"


def predicted_text(seconds: float, low_and_high_s: tuple[float, float] | None) -> str:
    """A prediction in words, with its range; nothing that could be taken for a measurement."""
    low, high = low_and_high_s or (seconds, seconds)
    return f"predicted (not measured) {microseconds(seconds)}, between {microseconds(low)} and {microseconds(high)}"


def relative(ratio: float) -> str:
    """A ratio: two decimals, more where it would otherwise read 0.0."""
    return f"{ratio:.2f}" if 0.1 <= ratio < 100 else digits(ratio, 2)


def spread(q1: float, median: float, q3: float) -> str:
    """Half the interquartile range in percent of the median: ±3%."""
    if not median > 0:
        return ""
    return f"±{50 * (q3 - q1) / median:.0f}%"


def count(number: int, noun: str, plural: str | None = None) -> str:
    """1 case, 2 cases."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def listing(words: list[str]) -> str:
    """a, b and c."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""


def printable(text: str) -> str:
    """One line without control characters: what a compiler says may hold any byte."""
    if not text.isprintable():
        text = "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(text.split())


def shorten(text: str, width: int) -> str:
    """`text` in at most `width` characters, with an ellipsis where it was cut."""
    return text if len(text) <= width else f"{text[: width - 1]}…"
