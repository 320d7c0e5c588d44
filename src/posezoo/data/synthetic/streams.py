"""Random sub-streams: every stage of a sample has its own, so that an edit to one leaves the rest alone.

This is what makes paired experiments possible: another background for the same person seen by the same
camera. No global generator and no salted `hash()` anywhere: a draw depends on the sample's name and nothing
else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from posezoo.errors import PoseZooError

# Adding, removing or reordering any draw changes the benchmark: raise this number then.
GENERATOR_VERSION = 1

# The numbers are part of the benchmark; append, never renumber.
STREAMS = {
    "body": 0,
    "look": 1,
    "pose": 2,
    "camera": 3,
    "companions": 4,
    "scene": 5,
    "occluders": 6,
    "sensor": 7,
}
# Redrawn by `scene_seed`; all others belong to the people and the camera.
SCENE_STREAMS = ("scene", "occluders", "sensor")

_BLOCK = 128
_IRWIN_HALL = 3**0.5  # standardises the sum of four uniforms (variance 4/12)

T = TypeVar("T")


class SyntheticDataError(PoseZooError, ValueError):
    """A sample or a cache that cannot be made as asked."""


class Stream:
    """Uniform numbers drawn in blocks and consumed as Python floats: ten times cheaper than singly."""

    def __init__(self, seed: np.random.SeedSequence) -> None:
        self._generator = np.random.Generator(np.random.PCG64(seed))
        self._block: list[float] = []

    def unit(self) -> float:
        """The next number in [0, 1)."""
        if not self._block:
            self._block = self._generator.random(_BLOCK).tolist()
        return self._block.pop()

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self.unit()

    def normal(self, mean: float, sd: float, clip: float = 2.5) -> float:
        """A bell-shaped number (sum of four uniforms) within `clip` standard deviations."""
        z = (self.unit() + self.unit() + self.unit() + self.unit() - 2) * _IRWIN_HALL
        return mean + sd * min(max(z, -clip), clip)

    def chance(self, probability: float) -> bool:
        return self.unit() < probability

    def integer(self, count: int) -> int:
        """A whole number in 0..count-1."""
        return int(self.unit() * count)

    def choice(self, items: Sequence[T]) -> T:
        return items[self.integer(len(items))]

    def weighted(self, weights: Sequence[float]) -> int:
        """An index drawn with probability proportional to its weight."""
        left = self.unit() * sum(weights)
        for i, weight in enumerate(weights):
            left -= weight
            if left < 0:
                return i
        return max(i for i, weight in enumerate(weights) if weight > 0)


@dataclass(frozen=True)
class SampleStreams:
    """Hands out the sub-streams of one sample.

    Attributes:
        name: (seed, split, index): what the sample is called.
        scene_seed: Another draw of the scene around the same people; None is the sample itself.
    """

    name: tuple[int, int, int]
    scene_seed: int | None = None

    def __call__(self, stage: str, person: int = 0) -> Stream:
        """The sub-stream of a stage for a person (0 is the subject)."""
        variant = 0 if self.scene_seed is None or stage not in SCENE_STREAMS else 1 + self.scene_seed
        key = (STREAMS[stage], person, variant)
        return Stream(np.random.SeedSequence((GENERATOR_VERSION, *self.name), spawn_key=key))
