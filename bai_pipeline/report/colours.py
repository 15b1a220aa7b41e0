"""How initializations and length buckets look in every figure.

An alpha has the same colour and marker everywhere (viridis over [0, 1]: dark for the merged SFT, light for the base);
Paradigm 1 is black and dash-dotted, Paradigm 3 red and dashed. Buckets run over plasma, so that none looks like an
alpha. Both maps stay in order for colour-blind readers and in gray print.
"""

from dataclasses import dataclass

from matplotlib import colormaps
from matplotlib.colors import to_hex, to_rgb

from bai_pipeline.report.curves import alpha_of

PARADIGM_COLOURS = {"paradigm_1": "#000000", "paradigm_3": "#d62728"}
PARADIGM_DARK = {"paradigm_1": "#f2f2f2", "paradigm_3": "#ff6b6b"}
PARADIGM_STYLES = {"paradigm_1": "-.", "paradigm_3": "--"}
OTHER_COLOUR = "#8c8c8c"
MARKERS = ("o", "s", "^", "D", "v")
"""Neighbouring alphas and buckets have neighbouring colours: the marker tells them apart."""
DARK_PAGE = "#14171c"
"""Background of the page in the dark (page.css)."""
_CONTRAST = 3.0
"""Of a line with the dark page (WCAG 2.2, 1.4.11)."""


@dataclass(frozen=True)
class Look:
    """A line's colours on white and on the dark page, and its marker and dashes in Matplotlib's names."""

    light: str
    dark: str
    marker: str
    dash: str = "-"


def colour(init: str) -> str:
    """The colour of an init in every figure, on white."""
    alpha = alpha_of(init)
    if alpha is None:
        return PARADIGM_COLOURS.get(init, OTHER_COLOUR)
    return to_hex(colormaps["viridis"](0.92 * alpha))  # the last yellow is hard to see on white


def marker(init: str) -> str:
    """The marker of an init in every figure, "" for one that is no blend."""
    alpha = alpha_of(init)
    return "" if alpha is None else MARKERS[round(10 * alpha) % len(MARKERS)]


def display_name(init: str) -> str:
    """How an init is called in a legend."""
    return init if alpha_of(init) is not None else init.replace("_", " ").capitalize()


def look(init: str) -> Look:
    """All of an init's looks."""
    light = colour(init)
    return Look(light, PARADIGM_DARK.get(init, on_dark(light)), marker(init), PARADIGM_STYLES.get(init, "-"))


def bucket_look(bucket: int, last: int) -> Look:
    """Of length bucket number `bucket`, where `last` is the greatest one drawn in the study."""
    light = to_hex(colormaps["plasma"](0.84 * bucket / max(last, 1)))
    return Look(light, on_dark(light), MARKERS[bucket % len(MARKERS)])


def on_dark(light: str) -> str:
    """The same hue, mixed with as little white as makes it visible on the dark page."""
    red, green, blue = to_rgb(light)
    for white in range(0, 100, 5):
        w = white / 100
        mixed = (red + (1 - red) * w, green + (1 - green) * w, blue + (1 - blue) * w)
        if (_luminance(mixed) + 0.05) / (_luminance(to_rgb(DARK_PAGE)) + 0.05) >= _CONTRAST:
            return to_hex(mixed)
    return "#ffffff"


def _luminance(colour: tuple[float, float, float]) -> float:
    """Relative luminance of an sRGB colour (WCAG 2.2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
