"""SyntheticPeople with the dials that the claims turn: statures, truncation, occluders, wrong labels, the window."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posezoo.data import SyntheticPeople
from posezoo.data.synthetic.dataset import RenderedPeople
from posezoo.data.synthetic.sample import SyntheticSample, render_sample
from posezoo.data.synthetic.scene import PRESETS, Preset
from posezoo.skeletons import H36M17, SYNTHETIC25, convert
from posezoo.structures import Sample

NOISE_DOMAIN, WINDOW_DOMAIN = 0xF11D, 0x51DE  # random streams that nothing else uses
SMALL = 32  # px: where joints are, as shares of the frame, does not depend on the resolution
# (axis, direction) of the edge that cuts somebody off, and how often, as the renderer's own truncation has it
EDGES, EDGE_WEIGHTS = ((1, 1), (0, 1), (0, -1), (1, -1)), (0.46, 0.2, 0.2, 0.14)


class ClaimPeople(SyntheticPeople):
    """SyntheticPeople with a few dials more. All of them leave everything else about a sample as it is.

    Args:
        truncation: Probability that the frame cuts the person; the preset's when null.
        stature_sd: Standard deviation of the statures, mm; the preset's when null.
        overlay: Probability of a flat blob in front of everything; the preset's when null.
        order_noise: Share of the annotated depth orders that are turned round.
        outside: Share of the 17 joints that the window is moved away from: the scene stays, the view changes.
        kwargs: Those of SyntheticPeople.
    """

    def __init__(
        self,
        truncation: float | None = None,
        stature_sd: float | None = None,
        overlay: float | None = None,
        order_noise: float = 0.0,
        outside: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        dials = {"truncation": truncation, "stature_sd": stature_sd, "overlay": overlay}
        self.dials = {name: value for name, value in dials.items() if value is not None}
        self.order_noise, self.outside = order_noise, outside
        self.preset_name = str(self.preset)
        if self.dials:  # a plain name keeps the name of its cache
            self.preset: str | Preset = replace(PRESETS[self.preset_name], **self.dials)

    def people(self, split: str) -> "ClaimRendered":
        """The people of a split, seen and labelled as the dials say."""
        return ClaimRendered(super().people(split), self.preset_name, self.order_noise, self.outside)

    def protocol(self, split: str) -> str:
        """As SyntheticPeople's, with the dials."""
        turned = self.dials | ({} if self.outside is None else {"outside": self.outside})
        named = super().protocol(split).replace(str(self.preset), self.preset_name)
        return named + "".join(f", {name} {value:g}" for name, value in turned.items())


class ClaimRendered(RenderedPeople):
    """A split of SyntheticPeople through a moved window, or with noise on its depth order."""

    def __init__(self, base: RenderedPeople, name: str, order_noise: float, outside: float | None) -> None:
        self.__dict__.update(base.__dict__)
        self.name, self.order_noise, self.outside = name, order_noise, outside

    def meta(self, index: int) -> dict[str, Any]:
        """As SyntheticPeople's."""
        return {"name": f"{self.name}/{self.split}/{index}"}

    def frame(self, number: int, size: int) -> SyntheticSample:
        """The frame through the window that leaves the wanted share of the joints outside."""
        if self.outside is None:
            return super().frame(number, size)
        whole = super().frame(number, SMALL)
        joints, _ = convert(whole.joints2d[0], None, SYNTHETIC25, H36M17)
        shift = window_shift(joints, SMALL, self.outside, np.random.default_rng((WINDOW_DOMAIN, number)))
        return render_sample(
            number, self.split, size=size, preset=self.preset, seed=self.seed, mocap=self.mocap, window_shift=shift
        )

    def _sample(self, image: NDArray[np.uint8] | None, row: dict[str, Any], number: int) -> Sample:
        sample = super()._sample(image, row, number)
        if self.order_noise and sample.depth_order is not None:
            rng = np.random.default_rng((NOISE_DOMAIN, self.seed, number))
            wrong = rng.random(len(sample.depth_order)) < self.order_noise
            sample.depth_order = np.where(wrong, -sample.depth_order, sample.depth_order).astype(np.int8)
        return sample


def window_shift(
    joints2d: NDArray[np.floating[Any]], size: int, share: float, rng: np.random.Generator
) -> tuple[float, float]:
    """How far to move the window of a frame, as shares of it, so that a share of the joints is beyond one edge.

    The edge is drawn once per generator state, so that larger shares cut off more of the same side.

    Args:
        joints2d: [J, 2] px in the frame as it is; all inside.
        size: Side of the frame, px.
        share: round(share * J) joints go outside; 0 moves nothing.
        rng: Draws the edge.
    """
    axis, direction = EDGES[rng.choice(len(EDGES), p=EDGE_WEIGHTS)]
    count = round(share * len(joints2d))
    if count == 0:
        return 0.0, 0.0
    along = np.sort(joints2d[:, axis] * direction)[::-1]
    cut = (along[count - 1] + along[count]) / 2 * direction  # px, between the last joint outside and the first inside
    edge = size - 0.5 if direction > 0 else -0.5
    shift = [0.0, 0.0]
    shift[axis] = float(cut - edge) / size
    return shift[0], shift[1]
