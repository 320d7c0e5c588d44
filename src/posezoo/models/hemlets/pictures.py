"""Triplet maps as pictures: where the network sees ends of parts behind, level with, and before the other end."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from posezoo.viz.draw2d import Colour, Image

# Of the states: child farther, level (with the parents), child nearer. Apart from the colours of left and right.
FARTHER: Colour = (205, 70, 215)
LEVEL: Colour = (245, 245, 245)
NEARER: Colour = (70, 205, 95)
LEGEND = "purple: farther, white: parents and level, green: nearer"


def draw_triplets(image: Image, triplets: NDArray[Any], side: int) -> Image:
    """A crop, darkened, with the maxima over all parts of each state's maps over it.

    Args:
        image: [S, S, 3] RGB.
        triplets: [K, states, h, w] maps of height about 1; three states, or two (farther, nearer).
        side: Height and width of the picture, px.

    Returns:
        [side, side, 3].
    """
    import cv2

    canvas = cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC).astype(np.float32) * 0.45
    colours = (FARTHER, LEVEL, NEARER) if triplets.shape[1] == 3 else (FARTHER, NEARER)
    for state in _level_first(len(colours)):
        shown = np.clip(triplets[:, state].max(0), 0, 1).astype(np.float32)
        opacity = cv2.resize(shown, (side, side), interpolation=cv2.INTER_LINEAR)[..., None]
        canvas += opacity * (np.asarray(colours[state], np.float32) - canvas)
    return np.asarray(np.clip(canvas.round(), 0, 255), np.uint8)


def _level_first(states: int) -> list[int]:
    """Every part's parent is in the zero map: drawn last, it would cover the children."""
    return [1, 0, 2] if states == 3 else [0, 1]
