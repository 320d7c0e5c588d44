"""Prepared people as a dataset: labels of the index, pixels of the small JPEGs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from posezoo.cameras import Camera
from posezoo.data.base import PoseDataset
from posezoo.data.evaluation import Records
from posezoo.data.images import ImageFile
from posezoo.data.prepare.layout import CAMERA_FIELDS, JOINT_FIELDS, Arrays
from posezoo.errors import PoseZooError
from posezoo.skeletons import Skeleton, get_skeleton
from posezoo.structures import Sample


class PreparedPeople(PoseDataset):
    """One set of the index, with everything that the dataset of the original files says of them.

    Attributes that the original dataset had beside the methods of `PoseDataset`, numbers and names, are here, too.

    Args:
        root: Folder of the index.
        about: What the index says of the set.
        arrays: Its arrays, see `layout.pack_people`.
        target: The model's skeleton, for annotated depth order.

    Raises:
        PoseZooError: There is annotated depth order, but not of the parts of `target`.
    """

    def __init__(self, root: Path, about: dict[str, Any], arrays: Arrays, target: Skeleton) -> None:
        self.root, self.about, self.arrays = root, about, arrays
        self.skeleton = get_skeleton(about["skeleton"])
        self.file: NDArray[np.bytes_] = arrays["file"]
        self._parts = None if "parts" not in about else _places(about["parts"], target, root)
        self._identity = [name.removeprefix("identity/") for name in arrays if name.startswith("identity/")]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or "about" not in vars(self):  # also while it is being copied
            raise AttributeError(name)
        if name in self.about["facts"]:
            return _tuples(self.about["facts"][name])
        if f"facts/{name}" in self.arrays:
            return self.arrays[f"facts/{name}"]
        raise AttributeError(f"prepared people have no '{name}'")

    def __len__(self) -> int:
        return len(self.file)

    def path(self, index: int) -> Path:
        """The JPEG of a person."""
        return self.root / bytes(self.file[index]).decode()

    def read(self, index: int, draw: int = 0) -> Sample:
        """One person; the image covers the part of the source image that augmented crops can see."""
        sample = self.read_labels(index)
        left, top, step_x, step_y = (float(value) for value in self.arrays["region"][index])
        sample.image = ImageFile(self.path(index), sample.size, (left, top), (step_x, step_y))
        return sample

    def read_labels(self, index: int) -> Sample:
        """One person without pixels."""
        fov, (width, height) = float(self.arrays["fov"][index]), self.arrays["size"][index]
        sample = Sample(
            image=None,
            box=self.arrays["box"][index],
            size=(int(width), int(height)),
            camera=self._camera(index),
            fov=None if np.isnan(fov) else fov,
            identity={name: int(self.arrays[f"identity/{name}"][index]) for name in self._identity},
            **{name: self._optional(name, index) for name in JOINT_FIELDS},
        )
        if self._parts is not None:
            sample.depth_order = self.arrays["order"][index][self._parts]
            sample.valid_order = self.arrays["valid_order"][index][self._parts]
        return sample

    def _optional(self, name: str, index: int) -> Any:
        known = self.arrays.get(f"{name}/known")
        missing = name not in self.arrays or (known is not None and not known[index])
        return None if missing else self.arrays[name][index]

    def _camera(self, index: int) -> Camera | None:
        place = int(self.arrays["camera"][index])
        if place < 0:
            return None
        return Camera(*(torch.from_numpy(np.asarray(self.arrays[f"cameras/{name}"][place])) for name in CAMERA_FIELDS))

    def meta(self, index: int) -> dict[str, Any]:
        """As of the original dataset, but `path` is the prepared JPEG and `original` the image it is from."""
        row = {}
        for name, kind in self.about["meta"].items():
            text = bytes(self.arrays[f"meta/{name}"][index]).decode()
            row[name] = text if kind == "text" else json.loads(text)
        if "path" in row:
            row["original"] = row["path"]
        return row | {"path": str(self.path(index))}

    def check_images(self) -> None:
        """Refuse an index without its JPEGs.

        Raises:
            PoseZooError: The folder of the first person's is missing.
        """
        if not self.path(0).parent.is_dir():
            raise PoseZooError(
                f"{self.path(0).parent} is missing: copy all of the prepared folder, not the index alone."
            )

    def groups(self) -> tuple[NDArray[np.int32], tuple[str, ...]] | None:
        """As of the original dataset."""
        return (self.arrays["group"], tuple(self.about["groups"])) if "group" in self.arrays else None

    def records(self) -> Records | None:
        """As of the original dataset."""
        columns = {name.removeprefix("records/"): v for name, v in self.arrays.items() if name.startswith("records/")}
        return Records(**columns) if columns else None

    def head_sizes(self) -> NDArray[np.float32] | None:
        """As of the original dataset."""
        return self.arrays.get("head_sizes")

    def box_scores(self) -> NDArray[np.float32] | None:
        """As of the original dataset."""
        return self.arrays.get("box_scores")

    def report(self) -> str:
        """That these are prepared, where they are from, and what the original dataset says."""
        skipped = self.about["skipped"]
        lost = f", {skipped} could not be prepared" if skipped else ""
        return f"Prepared data, {self.root}: {len(self)} people{lost}. {self.about['report']}".strip()


def _places(parts: list[list[str]], target: Skeleton, root: Path) -> NDArray[np.int64]:
    """Column of the index for every part of the target skeleton."""
    known = {(parent, child): place for place, (parent, child) in enumerate(parts)}
    wanted = [(target.joints[parent], target.joints[child]) for parent, child in target.parts]
    if not all(part in known for part in wanted):
        raise PoseZooError(
            f"{root} was prepared without the depth order of the parts of '{target.name}', which is no skeleton of "
            "posezoo's: use the original files."
        )
    return np.array([known[part] for part in wanted], np.int64)


def _tuples(value: Any) -> Any:
    """JSON has no tuples, the tables of a dataset are tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
