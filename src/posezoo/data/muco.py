"""MuCo-3DHP (Mehta et al., 3DV 2018) as 3DMPPE lays it out: composites of the people of MPI-INF-3DHP.

    root/MuCo-3DHP.json                                       or root/data/, root/annotations/
    root/augmented_set/..., root/unaugmented_set/...          below root, root/images or root/data

The release has tools in place of images; `data.muco_composition` makes composites in this layout.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posezoo.data.annotated import CameraPeople, check_misfit, misfit, pinhole
from posezoo.data.base import PoseDataModule
from posezoo.data.boxes import grow_boxes
from posezoo.data.files import Tally, check_images, numbered
from posezoo.data.layouts.tables_3dmppe import Table, read_table
from posezoo.errors import PoseZooError
from posezoo.skeletons import MUCO21

TABLE = "MuCo-3DHP.json"
_TABLE_FOLDERS = ("", "annotations", "data")
_IMAGE_FOLDERS = ("", "images", "data")
_REMEDY = "take MuCo-3DHP.json and the images from 3DMPPE, or make composites (docs/datasets/muco3dhp.md)"


class MuCo3DHP(PoseDataModule):
    """Images of several people, put together from MPI-INF-3DHP; for training.

    Args:
        root: Folder with MuCo-3DHP.json and its images.
        apart: Leave out people whose pelvis is nearer than this to another one's, mm; the nearest person of an image is
            always taken. 3DMPPE: 500. 0 takes everybody.
        box_scale: Factor on the boxes of the table, which are tight around the joints; 3DMPPE's 1.25 adds a margin.
        val_share: Share of the images, the last in the file, that is kept for validation.
        **keywords: As for `PoseDataModule`.
    """

    def __init__(
        self,
        root: str | None = None,
        *,
        apart: float = 0.0,
        box_scale: float = 1.0,
        val_share: float = 0.0,
        **keywords: Any,
    ) -> None:
        super().__init__(root, **keywords)
        if not apart >= 0:
            raise PoseZooError(f"--data.apart must not be negative, got {apart}.")
        if not 0 <= val_share < 1:
            raise PoseZooError(f"--data.val_share must be at least 0 and below 1, got {val_share}.")
        if not 0 < box_scale < np.inf:
            raise PoseZooError(f"--data.box_scale must be positive, got {box_scale}.")
        self.apart, self.box_scale, self.val_share = apart, box_scale, val_share
        self._opened: dict[str, CameraPeople] = {}

    def people(self, split: str) -> CameraPeople:
        """The people of "train" or "val": those of the first and of the last images in the file."""
        if split not in ("train", "val"):
            raise PoseZooError(f"MuCo3DHP has no '{split}' split: it is for training; test on --data MuPoTS3D.")
        if split == "val" and not self.val_share:
            raise PoseZooError(
                "MuCo3DHP keeps no images for validation: set --data.val_share, or make it a source of --data Mixed, "
                "which validates on another."
            )
        if split not in self._opened:
            self._opened[split] = open_people(self.root, self.apart, self.val_share, split, self.box_scale)
        return self._opened[split]

    def protocol(self, split: str) -> str:
        """What the scores mean: no benchmark."""
        return f"MuCo-3DHP {split}, last {self.val_share:g} of the images, root-relative; not a benchmark"


def open_people(
    root: Path | None, apart: float = 0.0, val_share: float = 0.0, split: str = "train", box_scale: float = 1.0
) -> CameraPeople:
    """Read the table and find the images.

    Raises:
        PoseZooError: Something is missing, damaged, or does not fit together.
    """
    folder, path = _located(root)
    tally = Tally()
    table = read_table(path, len(MUCO21), _REMEDY, tally)
    chosen = np.ones(len(table.image), bool) if apart == 0 else stand_apart(table, apart)
    tally.leave_out(f"nearer than {apart:g} mm to others", table.number[~chosen])
    last = table.image >= len(table.names) - round(val_share * len(table.names))
    rows = np.flatnonzero(chosen & (last if split == "val" else ~last))
    used = sorted({table.names[at] for at in table.image[rows]})
    images, missing = _image_folder(folder, used)
    people = table_people(table, rows, images, MUCO21, ("MuCo-3DHP",), np.zeros(len(rows), np.int32))
    _check_fit(people, path)
    summary = f"MuCo-3DHP, {path}: {len(rows)} people in {len(used)} images for {split}; left out: {tally}{missing}"
    return CameraPeople(**people | {"boxes": grow_boxes(people["boxes"], box_scale), "summary": summary})


def stand_apart(table: Table, least: float) -> NDArray[np.bool_]:
    """Which people [N] are the nearest of their image, or have nobody's pelvis within `least` mm of theirs."""
    pelvis = table.joints3d[:, int(MUCO21.root or 0)].astype(np.float64)
    keep = np.zeros(len(pelvis), bool)
    order = np.argsort(table.image, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(table.image[order])) + 1):
        if not len(rows):
            continue
        distance = np.linalg.norm(pelvis[rows, None] - pelvis[None, rows], axis=-1)
        np.fill_diagonal(distance, np.inf)
        keep[rows] = distance.min(1, initial=np.inf) >= least
        keep[rows[pelvis[rows, 2].argmin()]] = True
    return keep


def table_people(
    table: Table,
    rows: NDArray[np.int64],
    folder: Path,
    skeleton: Any,
    sequences: tuple[str, ...],
    sequence: NDArray[np.int32],
) -> dict[str, Any]:
    """The fields of `CameraPeople` for some rows of a table; without the summary."""
    image = table.image[rows]
    keys = [(*table.focal[at], *table.centre[at], *table.sizes[at]) for at in image]
    views, view = numbered(keys)
    values = np.array(views, np.float64).reshape(-1, 6)
    names = [table.names[at] for at in image]
    return {
        "folder": folder,
        "skeleton": skeleton,
        "image": np.array([name.encode() for name in names], np.bytes_),
        "boxes": table.boxes[rows],
        "joints3d": table.joints3d[rows],
        "valid3d": table.valid[rows],
        "joints2d": table.joints2d[rows],
        "valid2d": table.valid[rows],
        "view": view,
        "cameras": pinhole(values[:, :2], values[:, 2:4]),
        "sizes": values[:, 4:].astype(np.int32),
        "subject": sequence,
        "subjects": sequences,
        "sequence": sequence,
        "sequences": sequences,
        "frame": image.astype(np.int32),
        "action": np.zeros(len(rows), np.int32),
        "image_id": table.ids[image],
        "person_id": table.number[rows],
        "summary": "",
        "first_frame": 0,
    }


def _check_fit(people: dict[str, Any], path: Path) -> None:
    for number in range(min(len(people["sizes"]), 16)):
        rows = people["view"] == number
        parts = (people[name][rows] for name in ("joints3d", "joints2d", "valid3d"))
        check_misfit(misfit(people["cameras"][number], *parts), str(path), _REMEDY)


def _located(root: Path | None) -> tuple[Path, Path]:
    if root is None:
        raise PoseZooError(
            f"MuCo3DHP does not know where its files are: set --data.root to the folder with {TABLE} and its images."
        )
    if not root.is_dir():
        raise PoseZooError(f"There is no folder {root}: set --data.root to the folder with {TABLE} and its images.")
    for below in _TABLE_FOLDERS:
        if (root / below / TABLE).is_file():
            return root, root / below / TABLE
    raise PoseZooError(f"No annotations at {root / TABLE}: {_REMEDY}.")


def _image_folder(root: Path, names: list[str]) -> tuple[Path, str]:
    """The folder that the image names are relative to, and what is missing there."""
    first = next(((root / below) for below in _IMAGE_FOLDERS if names and (root / below / names[0]).is_file()), root)
    return first, check_images(first, names, _REMEDY) if names else ""
