"""Photographs without labels: what `posezoo predict` is given.

Pixels are as OpenCV reads them: turned upright by their EXIF orientation, grey made RGB, 16 bits cut to the upper 8,
transparency dropped. Boxes and intrinsics refer to the upright picture.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posezoo.cameras import Camera
from posezoo.data.base import PoseDataModule, PoseDataset
from posezoo.data.crop import FOV_PHOTOGRAPH
from posezoo.data.images import SourceImage, open_image
from posezoo.data.pictures import check_box, find_pictures, match_names, read_boxes, read_cameras
from posezoo.data.pictures import picture_size as picture_size
from posezoo.errors import PoseZooError
from posezoo.skeletons import H36M17
from posezoo.structures import Sample


class ImageFolder(PoseDataModule):
    """Your own pictures, for `predict`: one crop for every box, or for every whole picture where no boxes are given.

    Files are named relative to the folder (`a.jpg`; with a pattern `**`, `sub/a.jpg`), here and in meta.

    Args:
        root: A folder of pictures (its subfolders are not searched), one picture, or a quoted pattern such as
            "shots/**/*.jpg".
        boxes: File with the boxes of people, px of the upright picture: JSON {file: [[left, top, width, height], ...]}
            or CSV with the columns file,left,top,width,height. Pictures that it does not name have no people.
        fov: Field of view to assume where there is no camera, degrees along the longer side.
        cameras: JSON file {file: {"K": 3x3, "distortion": 4, 5, 8 or 12 OpenCV coefficients}}; "*" stands for all
            files that are not named. Only with it are absolute positions calibrated (`has_camera`).
        **keywords: As for `PoseDataModule`.
    """

    def __init__(
        self,
        root: str | None = None,
        *,
        boxes: str | None = None,
        fov: float = FOV_PHOTOGRAPH,
        cameras: str | None = None,
        **keywords: Any,
    ) -> None:
        super().__init__(root, **keywords)
        if not 0 < fov < 180:
            raise PoseZooError(f"--data.fov must lie between 0 and 180 degrees, got {fov}.")
        self.boxes, self.fov, self.cameras = boxes, fov, cameras

    def people(self, split: str) -> "Pictures":
        """The people of "predict", the only split: pictures have no labels to train or test with."""
        if split != "predict":
            raise PoseZooError(
                f"ImageFolder has no labels, hence no '{split}' split: type `posezoo predict`, or use another --data."
            )
        if self.box != "annotation":
            raise PoseZooError(
                f"The model's box '{self.box}' needs the true depth of each person, which pictures do not have: set "
                "--model.box annotation."
            )
        return open_pictures(self.root, self.boxes, self.fov, self.cameras)

    def meta(self, index: int, split: str = "predict") -> dict[str, Any]:
        """Path, file name as in the boxes file, and number of the box in its picture."""
        return super().meta(index, split)

    def protocol(self, split: str) -> str:
        """There is nothing to score."""
        return "pictures without labels: nothing is scored"


@dataclass(eq=False)
class Pictures(PoseDataset):
    """Pictures and the people in them.

    Attributes:
        paths, names: The picture files, and what users call them.
        picture, person: int32 [N], picture of each crop and number of its box in that picture.
        boxes: float32 [N, 4] ltwh, px; NaN stands for the whole picture.
        fov: Degrees, for pictures without a camera.
        cameras: One for each picture, or none at all.
    """

    paths: list[Path]
    names: list[str]
    picture: NDArray[np.int32]
    person: NDArray[np.int32]
    boxes: NDArray[np.float32]
    fov: float
    cameras: list[Camera]
    # People of one picture follow each other: the last one is kept, so that it is decoded once.
    _last: tuple[int, SourceImage] | None = field(default=None, repr=False)

    skeleton = H36M17  # nothing is labelled, so that any would do

    def __len__(self) -> int:
        return len(self.picture)

    def read(self, index: int, draw: int = 0) -> Sample:
        """One box with its picture."""
        at = int(self.picture[index])
        if self._last is None or self._last[0] != at:
            self._last = at, open_image(self.paths[at])
        image = self._last[1]
        width, height = image.size
        whole = np.isnan(self.boxes[index]).any()
        return Sample(
            image=image,
            box=np.array([0, 0, width, height], np.float32) if whole else self.boxes[index],
            size=(width, height),
            camera=self.cameras[at] if self.cameras else None,
            fov=self.fov,
            identity={"image_id": at, "person_id": int(self.person[index])},
        )

    def meta(self, index: int) -> dict[str, Any]:
        """Path, file name and box number."""
        at = int(self.picture[index])
        return {"path": str(self.paths[at]), "file": self.names[at], "box": int(self.person[index])}


def open_pictures(root: Path | None, boxes: str | None, fov: float, cameras: str | None) -> Pictures:
    """Find the pictures, check their headers, and read boxes and cameras.

    Raises:
        PoseZooError: No pictures; or a picture, box or camera that cannot be used.
    """
    files = find_pictures(root)
    names = list(files)
    sizes = [picture_size(path) for path in files.values()]
    if boxes is None:
        picture, person = np.arange(len(names), dtype=np.int32), np.zeros(len(names), np.int32)
        rows = np.full((len(names), 4), np.nan, np.float32)
    else:
        path = Path(boxes).expanduser()
        given = match_names(read_boxes(path), names, path)
        numbered = [(at, n, box) for at, name in enumerate(names) for n, box in enumerate(given.get(name, []))]
        for at, n, box in numbered:
            check_box(box, sizes[at], f"{path}: box {n} of {names[at]}")
        if not numbered:
            raise PoseZooError(f"{path} has no boxes: add some, or leave --data.boxes out to use whole pictures.")
        picture = np.array([at for at, _, _ in numbered], np.int32)
        person = np.array([n for _, n, _ in numbered], np.int32)
        rows = np.array([box for _, _, box in numbered], np.float32)
    known = read_cameras(Path(cameras).expanduser(), names) if cameras else []
    return Pictures(list(files.values()), names, picture, person, rows, fov, known)
