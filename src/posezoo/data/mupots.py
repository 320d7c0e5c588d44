"""MuPoTS-3D (Mehta et al., 3DV 2018): twenty test sequences with several people, official or with 3DMPPE's table.

    root/MultiPersonTestSet/TS1/annot.mat, occlusion.mat, img_000000.jpg ...      official; or root/TS1
    root/MuPoTS-3D.json                                                           3DMPPE's; or root/data/

The universal skeleton, which the published protocols score, is in annot.mat only. The data are licensed to each user by
their authors; posezoo neither ships nor fetches them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from posezoo.data.annotated import CameraPeople, check_misfit, fit_pinhole, join, listed, misfit, pinhole
from posezoo.data.base import PoseDataModule
from posezoo.data.boxes import joint_boxes
from posezoo.data.files import Tally, check_images
from posezoo.data.images import ImageError
from posezoo.data.layouts.tables_3dmppe import read_table
from posezoo.data.mat import one_line, read_mat
from posezoo.data.muco import table_people
from posezoo.data.pictures import picture_size
from posezoo.errors import PoseZooError
from posezoo.skeletons import MUPOTS17

if TYPE_CHECKING:
    from posezoo.metrics.multiperson import People

SEQUENCES = tuple(f"TS{n}" for n in range(1, 21))
TABLE = "MuPoTS-3D.json"
_TABLE_FOLDERS = ("", "annotations", "data")
_FOLDERS = ("MultiPersonTestSet", "", "data/MultiPersonTestSet")
_FRAME = "img_{:06d}.jpg"  # counts from 0
_NAME = re.compile(r"(?P<sequence>TS\d{1,2})/img_(?P<frame>\d{1,9})\.\w+")
_AGAIN = "get it from the MuPoTS-3D release again"
_WIDTHS = {"annot2": 2, "annot3": 3, "univ_annot3": 3}


class MuPoTS3D(PoseDataModule):
    """A test set of images with several people, each annotated person a sample.

    Args:
        root: Folder of the release or of 3DMPPE's layout; with both, the release is read.
        margin: Box around the joints, wider on each side by this share of the longer one; 3DMPPE's table has boxes of
            its own.
        **keywords: As for `PoseDataModule`.
    """

    def __init__(self, root: str | None = None, *, margin: float = 0.025, **keywords: Any) -> None:
        super().__init__(root, **keywords)
        if not margin >= 0:
            raise PoseZooError(f"--data.margin must not be negative, got {margin}.")
        self.margin = margin
        self._opened: MuPoTSPeople | None = None

    def people(self, split: str) -> "MuPoTSPeople":
        """The annotated people of "test", the only split."""
        if split != "test":
            raise PoseZooError(
                f"MuPoTS3D has no '{split}' split: it is a test set; train on --data MuCo3DHP or MPIINF3DHP."
            )
        if self._opened is None:
            self._opened = open_people(self.root, self.margin)
        return self._opened

    def annotated_people(self, split: str) -> "People":
        """Everybody annotated in valid frames, with the universal skeleton, as `MuPoTSMetric` wants them."""
        return self.people(split).annotated()

    def sequence_names(self) -> tuple[str, ...]:
        """TS1 to TS20."""
        return SEQUENCES

    def protocol(self, split: str) -> str:
        """What the scores mean, without the matching of the published protocols."""
        people = self.people(split)
        there = [SEQUENCES[number] for number in np.unique(people.sequence)]
        who = "TS1 to TS20" if tuple(there) == SEQUENCES else ", ".join(there)
        return (
            f"MuPoTS-3D, {who}, {len(people)} annotated people, their own boxes, metric skeleton, root-relative, mean "
            "over joints and people; its published measures are those of --data.protocol mupots"
        )


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class MuPoTSPeople(CameraPeople):
    """Annotated people of valid frames.

    Attributes:
        universal: float32 [N, 17, 3] mm, camera frame, bodies of normalised height; None in 3DMPPE's layout.
        occluded: bool [N, 17], joints that something hides; None where no file says.
    """

    universal: NDArray[np.float32] | None = None
    occluded: NDArray[np.bool_] | None = None

    def annotated(self) -> "People":
        """All of them as `MuPoTSMetric` takes them; `sequence` and `frame` are those of the samples.

        Raises:
            PoseZooError: The layout lacks the universal skeleton.
        """
        from posezoo.metrics.multiperson import People

        if self.universal is None:
            raise PoseZooError(
                f"{self.folder} has no TS1/annot.mat ..., which alone hold the universal skeleton that MuPoTS-3D's "
                "protocols score: set --data.root to the release, with MultiPersonTestSet."
            )
        sequence, frame, index = (
            torch.as_tensor(column.astype(np.int64)) for column in (self.sequence, self.frame, self.person_id)
        )
        return People(
            joints2d=torch.as_tensor(self.joints2d).double(),
            joints3d=torch.as_tensor(self.joints3d).double(),
            sequence=sequence,
            frame=frame,
            index=index,
            universal=torch.as_tensor(self.universal).double(),
        )


def open_people(root: Path | None, margin: float = 0.025) -> MuPoTSPeople:
    """Read the release, or else 3DMPPE's table.

    Raises:
        PoseZooError: Neither is there, or something is damaged or does not fit together.
    """
    wanted = f"MultiPersonTestSet (the release), or {TABLE} and its images (3DMPPE's layout)"
    if root is None:
        raise PoseZooError(f"MuPoTS3D does not know where its files are: set --data.root to the folder with {wanted}.")
    if not root.is_dir():
        raise PoseZooError(f"There is no folder {root}: set --data.root to the folder with {wanted}.")
    for below in _FOLDERS:
        found = [name for name in SEQUENCES if (root / below / name / "annot.mat").is_file()]
        if found:
            return _open_official(root / below, found, margin)
    for below in _TABLE_FOLDERS:
        if (root / below / TABLE).is_file():
            return _open_table(root, root / below / TABLE)
    raise PoseZooError(f"{root} holds neither layout of MuPoTS-3D: set --data.root to the folder with {wanted}.")


# ------------------------------------------------------------------------------------------------- official


def _open_official(folder: Path, sequences: Sequence[str], margin: float) -> MuPoTSPeople:
    parts, cameras, sizes, tally = [], [], [], Tally()
    for number, name in enumerate(sequences):
        part = _read_sequence(folder / name, tally)
        both = part["valid"]
        try:
            focal, centre = fit_pinhole(part["joints3d"], part["joints2d"], both)
        except (ValueError, np.linalg.LinAlgError) as error:
            path = folder / name / "annot.mat"
            raise PoseZooError(f"{path}: {one_line(error)}, so its labels are not of one kind: {_AGAIN}.") from error
        error_px = misfit(pinhole(focal, centre), part["joints3d"], part["joints2d"], both)
        check_misfit(error_px, str(folder / name / "annot.mat"), _AGAIN)
        cameras.append((focal, centre))
        sizes.append(_size(folder, name, part["frame"]))
        count = len(part["frame"])
        part["view"] = np.full(count, number, np.int32)
        part["sequence"] = np.full(count, SEQUENCES.index(name), np.int32)
        images = [f"{name}/{_FRAME.format(frame)}".encode() for frame in part["frame"]]
        parts.append(part | {"image": np.array(images, np.bytes_)})
    data = join(parts)
    names = sorted({bytes(name).decode() for name in data["image"]})
    missing = check_images(folder, names, "unpack all of MuPoTS-3D there")
    absent = [name for name in SEQUENCES if name not in sequences]
    count = len(data["image"])
    hidden = data["occluded"]
    return MuPoTSPeople(
        folder=folder,
        skeleton=MUPOTS17,
        image=data["image"],
        boxes=joint_boxes(data["joints2d"], data["valid"], margin),
        joints3d=data["joints3d"],
        valid3d=data["valid"],
        joints2d=data["joints2d"],
        valid2d=data["valid"],
        view=data["view"],
        cameras=pinhole([focal for focal, _ in cameras], [centre for _, centre in cameras]),
        sizes=np.array(sizes, np.int32),
        subject=data["sequence"],
        subjects=SEQUENCES,
        sequence=data["sequence"],
        sequences=SEQUENCES,
        frame=data["frame"],
        action=np.zeros(count, np.int32),
        image_id=data["sequence"].astype(np.int64) * 100_000 + data["frame"],
        person_id=data["person"],
        summary=(
            f"MuPoTS-3D, official layout at {folder}: {count} people in {len(names)} images of "
            f"{listed(sequences)}; left out: {tally}; not there: {listed(absent)}{missing}"
        ),
        first_frame=0,
        universal=data["universal"],
        occluded=hidden if hidden.dtype == bool else None,
    )


def _read_sequence(folder: Path, tally: Tally) -> dict[str, NDArray[Any]]:
    """The people of the valid frames of one sequence, by frame and then in annotation order."""
    path = folder / "annot.mat"
    cells = read_mat(path, ["annotations"], _AGAIN)["annotations"]
    if not isinstance(cells, np.ndarray) or cells.dtype != object or cells.ndim != 2:
        raise PoseZooError(f"{path} has 'annotations' of another kind than a cell of frames and people: {_AGAIN}.")
    hidden = _read_occlusion(folder / "occlusion.mat", cells.shape)
    rows: list[tuple[int, int]] = []
    columns: dict[str, list[NDArray[np.float32]]] = {name: [] for name in _WIDTHS}
    for frame, person in np.ndindex(*cells.shape):
        entry = cells[frame, person]
        where = f"{path}, frame {frame}, person {person}"
        if not isinstance(entry, dict):
            raise PoseZooError(f"{where}: no struct with annot2, annot3, univ_annot3 and isValidFrame: {_AGAIN}.")
        flag = np.asarray(entry.get("isValidFrame", np.zeros(0)))
        if flag.dtype == object or flag.size != 1:
            raise PoseZooError(f"{where}: no isValidFrame: {_AGAIN}.")
        if not flag.ravel()[0]:
            tally.leave_out("not valid", [f"{folder.name} frame {frame} person {person}"])
            continue
        rows.append((frame, person))
        for name in _WIDTHS:
            columns[name].append(_joints(entry.get(name), name, where))
    if not rows:
        raise PoseZooError(f"{path} has nobody in a valid frame: {_AGAIN}.")
    places = np.array(rows, np.int32)
    joints2d, joints3d, universal = (np.stack(columns[name]) for name in _WIDTHS)
    valid = np.isfinite(joints3d).all(-1) & np.isfinite(joints2d).all(-1) & (joints3d[..., 2] > 0)
    occluded = np.zeros(len(places), np.float32) if hidden is None else hidden[places[:, 0], places[:, 1]]
    return {
        "frame": places[:, 0],
        "person": places[:, 1].astype(np.int64),
        "joints2d": np.where(valid[..., None], joints2d, 0),
        "joints3d": np.where(valid[..., None], joints3d, 0),
        "universal": np.where(np.isfinite(universal), universal, 0),
        "valid": valid,
        "occluded": occluded,
    }


def _joints(value: Any, name: str, where: str) -> NDArray[np.float32]:
    width, count = _WIDTHS[name], len(MUPOTS17)
    if not isinstance(value, np.ndarray) or value.dtype == object or value.shape != (width, count):
        raise PoseZooError(
            f"{where}: '{name}' has the shape {getattr(value, 'shape', 'of nothing')}, expected ({width}, {count}): "
            f"{_AGAIN}."
        )
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is unlabelled
        return value.T.astype(np.float32)


def _read_occlusion(path: Path, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """Hidden joints [frames, people, 17]; None without the file."""
    if not path.is_file():
        return None
    cells = read_mat(path, ["occlusion_labels"], _AGAIN)["occlusion_labels"]
    if not isinstance(cells, np.ndarray) or cells.dtype != object or cells.shape != shape:
        raise PoseZooError(f"{path} is not of the annot.mat beside it, which has {shape} frames and people: {_AGAIN}.")
    hidden = np.zeros((*shape, len(MUPOTS17)), bool)
    for place in np.ndindex(*shape):
        values = cells[place]
        if isinstance(values, np.ndarray) and values.dtype != object and values.size == len(MUPOTS17):
            hidden[place] = values.ravel() > 0
    return hidden


def _size(folder: Path, name: str, frames: NDArray[Any]) -> tuple[int, int]:
    """(width, height) of a sequence, from the first of its images that can be read."""
    for frame in frames:
        try:
            return picture_size(folder / name / _FRAME.format(frame))
        except ImageError:
            continue
    raise PoseZooError(
        f"No image at {folder / name / _FRAME.format(frames[0])}, nor any other: unpack MuPoTS-3D again."
    )


# -------------------------------------------------------------------------------------------------- 3DMPPE's


def _open_table(root: Path, path: Path) -> MuPoTSPeople:
    remedy = f"take {TABLE} from 3DMPPE again"
    tally = Tally()
    table = read_table(path, len(MUPOTS17), remedy, tally)
    parsed = [_NAME.fullmatch(name) for name in table.names]
    for name, match in zip(table.names, parsed, strict=True):
        if match is None or match["sequence"] not in SEQUENCES:
            raise PoseZooError(f"{path} names the image '{name[:80]}', but they are like TS1/img_000000.jpg: {remedy}.")
    sequence = np.array([SEQUENCES.index(match["sequence"]) for match in parsed if match], np.int32)
    frame = np.array([int(match["frame"]) for match in parsed if match], np.int32)
    used = sorted({table.names[at] for at in table.image})
    places = [root / below for below in _FOLDERS]
    folder = next((place for place in places if used and (place / used[0]).is_file()), places[0])
    missing = check_images(folder, used, "unpack all of MuPoTS-3D there") if used else ""
    rows = np.arange(len(table.image))
    fields = table_people(table, rows, folder, MUPOTS17, SEQUENCES, sequence[table.image])
    people = MuPoTSPeople(
        **fields
        | {
            "frame": frame[table.image],
            "image_id": sequence[table.image].astype(np.int64) * 100_000 + frame[table.image],
            "summary": (
                f"MuPoTS-3D, 3DMPPE's table {path}: {len(rows)} people in {len(used)} images, without the universal "
                f"skeleton; left out: {tally}{missing}"
            ),
        }
    )
    for number in range(len(people.sizes)):
        of_view = people.view == number
        both = people.valid3d[of_view]
        error = misfit(people.cameras[number], people.joints3d[of_view], people.joints2d[of_view], both)
        check_misfit(error, str(path), remedy)
    return people
