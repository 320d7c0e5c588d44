"""Photographs with 2D joints, without cameras and 3D labels: what COCO, MPII and ordinal depth have in common."""

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posezoo.data.base import PoseDataModule, PoseDataset
from posezoo.data.crop import CropSpec
from posezoo.data.images import SourceImage, open_image
from posezoo.data.pictures import picture_size
from posezoo.errors import PoseZooError
from posezoo.skeletons import Skeleton, get_skeleton
from posezoo.structures import Sample


class KeypointModule(PoseDataModule):
    """Base of datasets with 2D labels only: weak sources for `Mixed`, with nothing to score in millimetres.

    Crops are `image_plane` from a guessed field of view of 8 degrees. The box is always the annotated one, because
    `pelvis_2000mm` needs depths that nobody has here.
    """

    splits: tuple[str, ...] = ("train", "val")

    @property
    def spec(self) -> CropSpec:
        """What the crops look like; the box never depends on 3D."""
        return CropSpec(get_skeleton(self.skeleton), self.image_size, self.crop, "annotation")

    def check_split(self, split: str) -> None:
        """Refuse a split that has no labels.

        Raises:
            PoseZooError: It is none of `splits`.
        """
        if split not in self.splits:
            raise PoseZooError(
                f"{type(self).__name__} has no '{split}' split ({', '.join(self.splits)} only) and no 3D labels to "
                "score: use another --data."
            )

    def protocol(self, split: str) -> str:
        """There is nothing to score in millimetres."""
        return f"{type(self).__name__}: 2D joints only, nothing is scored in mm"


class PhotographPeople(PoseDataset):
    """People of photographs of any size: the annotations do not tell it, the files do."""

    @abstractmethod
    def path(self, index: int) -> Path:
        """The image of a person."""

    @abstractmethod
    def _sample(self, index: int, image: SourceImage | None, size: tuple[int, int]) -> Sample: ...

    def read(self, index: int, draw: int = 0) -> Sample:
        """One person with the image."""
        image = open_image(self.path(index))
        return self._sample(index, image, image.size)

    def read_labels(self, index: int) -> Sample:
        """One person; of the image only the header is read."""
        return self._sample(index, None, picture_size(self.path(index)))


@dataclass(frozen=True, eq=False, repr=False)
class KeypointPeople(PhotographPeople):
    """Annotated people as arrays: no object per sample that loader processes would copy.

    Attributes:
        folder: What the image names are relative to.
        skeleton: Of the annotations.
        image: UTF-8 bytes [N].
        boxes: float32 [N, 4] ltwh, px.
        joints2d: float32 [N, J, 2] px, first pixel 0; `valid2d` bool [N, J].
        image_id, person_id: int64 [N], the dataset's own numbers.
        summary: What was found and what was left out.
    """

    folder: Path
    skeleton: Skeleton
    image: NDArray[np.bytes_]
    boxes: NDArray[np.float32]
    joints2d: NDArray[np.float32]
    valid2d: NDArray[np.bool_]
    image_id: NDArray[np.int64]
    person_id: NDArray[np.int64]
    summary: str

    def __len__(self) -> int:
        return len(self.image)

    def _sample(self, index: int, image: SourceImage | None, size: tuple[int, int]) -> Sample:
        return Sample(
            image=image,
            box=self.boxes[index],
            size=size,
            joints2d=self.joints2d[index],
            valid2d=self.valid2d[index],
            identity={"image_id": int(self.image_id[index]), "person_id": int(self.person_id[index])},
        )

    def path(self, index: int) -> Path:
        """The image of a person."""
        return self.folder / bytes(self.image[index]).decode()

    def meta(self, index: int) -> dict[str, Any]:
        """Path of the image, and the dataset's own numbers of image and person."""
        return {
            "path": str(self.path(index)),
            "image_id": int(self.image_id[index]),
            "person_id": int(self.person_id[index]),
        }

    def report(self) -> str:
        """What was found and what was left out."""
        return self.summary


def image_names(names: list[str]) -> NDArray[np.bytes_]:
    """Image names as one array."""
    return np.array([name.encode() for name in names], dtype=np.bytes_)
