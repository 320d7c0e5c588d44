"""Draws docs/images/crops.jpg, one person in both kinds of crop: `python docs/figures/crops.py`."""

from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from posezoo.data.crop import CropDraw, CropSpec, crop_camera, make_labels, warp
from posezoo.data.synthetic.dataset import RenderedPeople
from posezoo.skeletons import H36M17
from posezoo.structures import Sample
from posezoo.viz.draw2d import caption, draw_box, draw_pose, tile, write_picture

PICTURE = Path(__file__).resolve().parents[1] / "images" / "crops.jpg"
PERSON = 102  # beside the middle of the frame, where the two kinds differ
SIZE = 300
PANELS = {
    "look_at": CropSpec(H36M17, SIZE, "look_at", "annotation"),
    "image_plane": CropSpec(H36M17, SIZE, "image_plane", "annotation"),
}


def panel(sample: Sample, people: RenderedPeople, kind: str, draw: CropDraw, text: str) -> NDArray[np.uint8]:
    """One crop with its 2D labels."""
    spec = PANELS[kind]
    crop = crop_camera(sample, people.skeleton, spec, draw)
    labels = make_labels(sample, people.skeleton, spec, crop)
    image = warp(cast(NDArray[np.uint8], sample.image), crop)
    return caption(draw_pose(image, labels["joints2d"].numpy(), H36M17, valid=labels["valid2d"].numpy()), text)


def main() -> None:
    """Frame with its box, then the crops."""
    people = RenderedPeople("test", 20_000, 2 * SIZE, "full", 0, H36M17)
    sample = people.read(PERSON)
    frame = draw_box(cast(NDArray[np.uint8], sample.image), sample.box)[::2, ::2]
    plain, turned = CropDraw(), CropDraw(roll=20, zoom=0.8, flip=True)
    pictures = [
        caption(np.ascontiguousarray(frame), "frame and box"),
        panel(sample, people, "look_at", plain, "look_at"),
        panel(sample, people, "image_plane", plain, "image_plane"),
        panel(sample, people, "look_at", turned, "look_at: roll 20, zoom 0.8, flip"),
    ]
    write_picture(PICTURE, tile(pictures, 4))


if __name__ == "__main__":
    main()
