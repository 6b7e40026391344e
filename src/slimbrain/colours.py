"""Colours of maps: one code for pictures, plots and the page, as the stops from which each makes its scale."""

from __future__ import annotations

UNSIGNED = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
"""Viridis: dark to bright."""

POSITIVE = ((140, 20, 20), (240, 90, 20), (255, 240, 130))
NEGATIVE = ((30, 50, 160), (30, 140, 240), (160, 245, 255))
"""From nearly zero to the end of the scale, brighter with the magnitude: red to yellow above zero, blue to pale blue below."""

_Colours = tuple[tuple[int, int, int], ...]


def page_colours() -> dict[str, _Colours]:
    """The stops by the names that the page's script has for them."""
    return {"VIRIDIS": UNSIGNED, "WARM": POSITIVE, "COLD": NEGATIVE}


def stops(signed: bool) -> list[tuple[float, tuple[float, float, float]]]:
    """Place from 0 to 1, and red, green and blue from 0 to 1, of each stop, for a colour map of matplotlib."""
    if not signed:
        return [(place / (len(UNSIGNED) - 1), _shares(colour)) for place, colour in enumerate(UNSIGNED)]
    below = [(0.5 * place / (len(NEGATIVE) - 1), _shares(colour)) for place, colour in enumerate(reversed(NEGATIVE))]
    above = [(0.5 + 0.5 * place / (len(POSITIVE) - 1), _shares(colour)) for place, colour in enumerate(POSITIVE)]
    return [*below, *above]


def _shares(colour: tuple[int, int, int]) -> tuple[float, float, float]:
    red, green, blue = colour
    return red / 255, green / 255, blue / 255
