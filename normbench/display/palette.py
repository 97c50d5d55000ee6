"""One colour and one marker per variant, the same in every plot and table. Okabe and Ito's colour-blind-safe set."""

import zlib
from typing import NamedTuple

GREY, ORANGE, SKY, GREEN, BLUE, VERMILLION, PURPLE, OLIVE = (
    "#8a8a8a",
    "#e69f00",
    "#56b4e9",
    "#009e73",
    "#2f7fc1",
    "#d55e00",
    "#cc79a7",
    "#a59b22",  # their yellow cannot be seen on white
)
BROWN, INDIGO, PINK, TEAL = (
    "#9c755f",
    "#6a6ae0",
    "#d4619f",
    "#1f7f8c",
)  # where an operator has more than eight variants; told apart by their markers, too
_COLOURS = (GREY, ORANGE, SKY, GREEN, BLUE, VERMILLION, PURPLE, OLIVE)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")

INK = "#7b7b7b"
"""Text and axes: readable on white and on black; the HTML report replaces it by the colour of its text."""


class Style(NamedTuple):
    colour: str
    marker: str


_FIXED = {
    "naive": Style(GREY, "o"),
    "unfused": Style(GREY, "o"),
    "naive_promoting": Style(PURPLE, "X"),
    "folded": Style(ORANGE, "s"),
    "prefolded": Style(BLUE, "D"),
    "pallas_triton": Style(VERMILLION, "^"),
    "pallas_mosaic": Style(INDIGO, "*"),
    "pallas_tpu": Style(PINK, "8"),
    "native": Style(TEAL, "H"),
    "two_pass": Style(OLIVE, "<"),
    "one_pass": Style(ORANGE, "s"),
    "pivoted": Style(GREEN, "P"),
    "welford": Style(SKY, "p"),
    "custom_vjp": Style(BLUE, "v"),
    "jax_nn": Style(PURPLE, "h"),
    "flax": Style(BROWN, ">"),
    "shifted": Style(SKY, "d"),
    # PyTensor's backends, and what they are compared with.
    "numpy": Style(GREY, "o"),
    "jax": Style(PURPLE, "h"),
    "pytensor jax": Style(BLUE, "s"),
    "pytensor numba": Style(GREEN, "D"),
    "pytensor c": Style(ORANGE, "^"),
    "pytensor_jax": Style(BLUE, "s"),
    "pytensor_numba": Style(GREEN, "D"),
    "pytensor_c": Style(ORANGE, "^"),
}


def style(variant: str) -> Style:
    """The colour and marker of a variant; of an unknown one, by its name alone."""
    if variant in _FIXED:
        return _FIXED[variant]
    number = zlib.crc32(variant.encode())
    return Style(_COLOURS[number % len(_COLOURS)], _MARKERS[number // len(_COLOURS) % len(_MARKERS)])
