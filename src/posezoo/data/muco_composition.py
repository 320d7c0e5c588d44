"""Images of several people out of single-person frames of MPI-INF-3DHP: the composition of MuCo-3DHP.

The frame of the farthest person is the ground; nearer people and their chairs are laid over it by the release's masks,
so that everyone hides those behind. All frames of an image come from one camera: labels stay exact as they are.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from posezoo.data.annotated import CameraPeople
from posezoo.data.base import single_threaded
from posezoo.data.files import write_whole
from posezoo.data.green_screen import (
    MASKS,
    Change,
    Screens,
    augmentable,
    background,
    blend,
    dress,
    mask_path,
    person_weights,
    soft_mask,
)
from posezoo.data.images import encode_jpeg, open_image
from posezoo.data.muco import TABLE
from posezoo.errors import PoseZooError
from posezoo.skeletons import MUCO21

Pixels = NDArray[np.uint8]
Weights = NDArray[np.float32]

_DOMAIN = 0x30C0  # keeps these draws apart from all others
_TRIES = 50
_QUALITY = 92
FOLDER = "composites"


@dataclass(frozen=True, eq=False)
class CutOut:
    """A person in a frame.

    Attributes:
        pixels: float32 [H, W, 3], 0 to 255.
        person: [H, W], 0 to 1, how much of a pixel is the person.
        chair: [H, W], 0 to 1, how much of it is the person's chair.
        depth: Distance of the pelvis along the optical axis, mm.
    """

    pixels: Weights
    person: Weights
    chair: Weights
    depth: float


@dataclass(frozen=True, eq=False)
class Composite:
    """Several people in one image.

    Attributes:
        pixels: uint8 [H, W, 3].
        order: Places of the people from near to far.
        visible: Share [P] of each person's own pixels that nobody nearer hides, 0 to 1; 0 for an empty mask.
    """

    pixels: Pixels
    order: tuple[int, ...]
    visible: tuple[float, ...]


def compose(people: Sequence[CutOut]) -> Composite:
    """Lay people of one camera over each other by depth; the farthest one's frame is the ground.

    Raises:
        ValueError: Nobody, or frames of different sizes.
    """
    if not people or len({person.pixels.shape for person in people}) != 1:
        raise ValueError("a composite needs people in frames of one size")
    order = sorted(range(len(people)), key=lambda place: people[place].depth)
    pixels = people[order[-1]].pixels
    for place in reversed(order[:-1]):
        layer = people[place]
        for weights in (layer.chair, layer.person):
            pixels = blend(layer.pixels, pixels, weights)
    visible = [0.0] * len(people)
    free = np.ones(people[0].person.shape, np.float32)
    for place in order:
        layer = people[place]
        total = float(layer.person.sum())
        visible[place] = float((layer.person * free).sum()) / total if total > 0 else 0.0
        free = free * (1 - layer.person) * (1 - layer.chair)
    return Composite(np.clip(np.rint(pixels), 0, 255).astype(np.uint8), tuple(order), tuple(visible))


def cut_out(people: CameraPeople, index: int, change: Change | None = None, ground: bool = False) -> CutOut:
    """The person of one training frame, with the release's masks.

    Args:
        people: Training frames of the release's layout.
        index: Which.
        change: Other clothes, chair and background; the background only where this is the ground.
        ground: Whether the rest of the frame will be seen.

    Raises:
        ImageError: The frame or a mask cannot be read.
    """
    path = people.path(index)
    frame = open_image(path).decode().astype(np.float32)
    masks = [soft_mask(open_image(mask_path(path, kind)).decode()) for kind in MASKS]
    foreground, chair = masks
    if change is not None:
        frame = dress(frame, foreground, chair[..., 0], change)
    person = person_weights(foreground, np.ones_like(chair), people.boxes[index])
    if ground and change is not None and change.background is not None:
        behind = background(change.background, (frame.shape[1], frame.shape[0]), change.zoom, change.place)
        frame = blend(frame, behind, np.maximum(person, 1 - chair[..., 0]))
    pelvis = people.joints3d[index, int(people.skeleton.root or 0)]
    return CutOut(np.asarray(frame, np.float32), person, np.asarray(1 - chair[..., 0], np.float32), float(pelvis[2]))


def choose_people(people: CameraPeople, count: int, apart: float, rng: np.random.Generator) -> list[int]:
    """Frames of one camera whose people stand at least `apart` mm from each other (pelvis to pelvis).

    Raises:
        PoseZooError: No such group was found.
    """
    camera_of = [title.rpartition(" ")[2] for title in people.sequences]
    usable = [number for number, title in enumerate(people.sequences) if augmentable(*title.split()[:2])[0]]
    pelvis = people.joints3d[:, int(people.skeleton.root or 0)]
    for _ in range(_TRIES):
        first = int(rng.integers(len(people)))
        if people.view[first] not in usable:
            continue
        camera = camera_of[people.view[first]]
        views = [number for number in usable if camera_of[number] == camera]
        pool = np.flatnonzero(np.isin(people.view, views))
        group = [first]
        for candidate in rng.permutation(pool)[: 20 * count]:
            if len(group) == count:
                break
            near = np.linalg.norm(pelvis[group] - pelvis[candidate], axis=-1).min()
            if near >= apart and _same_camera(people, first, int(candidate)):
                group.append(int(candidate))
        if len(group) == count:
            return group
    raise PoseZooError(
        f"No {count} frames of one camera have people {apart:g} mm apart and usable masks: prepare more of "
        "MPI-INF-3DHP, ask for fewer people in an image, or for less distance."
    )


def _same_camera(people: CameraPeople, one: int, other: int) -> bool:
    k = people.cameras.intrinsics
    same = bool((k[int(people.view[one])] - k[int(people.view[other])]).abs().max() < 1e-2)
    return same and people.size(one) == people.size(other)


@dataclass(frozen=True)
class Composites:
    """What `make_composites` made.

    Attributes:
        table: The JSON file.
        images: Number of images in it.
        kept: How many of them were there from an earlier run.
        skipped: Why others could not be made, one sentence each.
    """

    table: Path
    images: int
    kept: int
    skipped: tuple[str, ...]


def plan_composites(
    people: CameraPeople, count: int, per_image: int = 4, apart: float = 400.0, seed: int = 0
) -> list[list[int]]:
    """Whom each image shows; arguments and errors as for `make_composites`."""
    if count < 1 or per_image < 1:
        raise PoseZooError(f"A set of composites has at least 1 image of 1 person, got {count} of {per_image}.")
    if people.skeleton is not MUCO21:
        raise PoseZooError("Composites need the release's layout of MPI-INF-3DHP, which has masks and all joints.")
    draws = (np.random.default_rng((_DOMAIN, seed, number)) for number in range(count))
    return [choose_people(people, per_image, apart, rng) for rng in draws]


def make_composites(
    people: CameraPeople,
    out: Path,
    count: int,
    per_image: int = 4,
    apart: float = 400.0,
    seed: int = 0,
    groups: list[list[int]] | None = None,
    screens: Screens | None = None,
    workers: int = 0,
    track: Callable[[Iterable[Any], str, int], Iterable[Any]] = lambda items, name, count: items,
) -> Composites:
    """Write composites as `MuCo3DHP` reads them: JPEG files and, last, MuCo-3DHP.json.

    Image i depends on (seed, i) and the frames alone; files that are there already are not made again, so that an
    interrupted run goes on. Images of frames that cannot be read are left out.

    Args:
        people: Training frames of `MPIINF3DHP` in the release's layout, with masks.
        out: Folder to write to.
        count: Images.
        per_image: People in each.
        apart: Least distance between two pelvises, mm.
        seed: Another one makes other images.
        groups: What `plan_composites` gave for these arguments, where it has been asked already.
        screens: Other backgrounds and clothes.
        workers: Processes that make images; these do not depend on their number.
        track: Wraps the images (with a name and their number), for a progress bar.

    Raises:
        PoseZooError: The frames do not suffice, none of them can be read, or `out` cannot be written.
    """
    groups = groups or plan_composites(people, count, per_image, apart, seed)
    jobs = _Jobs(people, groups, out, screens)
    loader: DataLoader[Any] = DataLoader(
        jobs, batch_size=None, num_workers=workers, worker_init_fn=single_threaded if workers else None
    )
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    kept, skipped = 0, []
    for number, done in enumerate(track(loader, "composites", count)):
        if done.unwritable:
            raise PoseZooError(done.unwritable)
        if done.why:
            skipped.append(done.why)
            continue
        kept += done.kept
        images.append(_image_entry(people, groups[number][0], number, _name(number)))
        annotations += [
            _person_entry(people, index, len(annotations) + place, number, done.visible[place])
            for place, index in enumerate(groups[number])
        ]
    if not images:
        raise PoseZooError(skipped[0])
    write_whole(out / TABLE, json.dumps({"images": images, "annotations": annotations}).encode())
    return Composites(out / TABLE, len(images), kept, tuple(skipped))


@dataclass(frozen=True)
class _Done:
    """What became of an image: who can be seen how well, why it was left out, or why no image can be written."""

    visible: tuple[float, ...] = ()
    kept: bool = False
    why: str = ""
    unwritable: str = ""


class _Jobs(Dataset[_Done]):
    """Number of an image -> its files; for the processes of a DataLoader."""

    def __init__(self, people: CameraPeople, groups: list[list[int]], out: Path, screens: Screens | None) -> None:
        self.people, self.groups, self.out, self.screens = people, groups, out, screens

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, number: int) -> _Done:
        try:
            return self._image(number)
        except PoseZooError as error:
            return _Done(why=str(error))
        except OSError as error:
            return _Done(unwritable=f"{self.out} cannot be written ({error.strerror or error}): make room or mend it.")

    def _image(self, number: int) -> _Done:
        group, path = self.groups[number], self.out / _name(number)
        note = path.with_suffix(".json")
        made_of = _recipe(self.people, group, number, self.screens)
        facts, kept = _finished(path, note, made_of), True
        if facts is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            kept, facts = False, made_of | _write_composite(self.people, group, path, number, self.screens)
            write_whole(note, json.dumps(facts).encode())
        return _Done(tuple(facts["visible"]), kept)


def _name(number: int) -> str:
    return f"{FOLDER}/{number:06d}.jpg"


def _recipe(people: CameraPeople, group: Sequence[int], number: int, screens: Screens | None) -> dict[str, Any]:
    """What an image is made of; kept beside it, so that one made otherwise is made again."""
    screened = None if screens is None else [*vars(screens.settings).values(), screens.seed]
    return {"number": number, "sources": [people.image[index].decode() for index in group], "screens": screened}


def _finished(path: Path, note: Path, made_of: dict[str, Any]) -> dict[str, Any] | None:
    """The notes of an image that is there and made of the same; None else."""
    try:
        facts = json.loads(note.read_bytes())
    except (OSError, ValueError):
        return None
    same = isinstance(facts, dict) and all(facts.get(key) == value for key, value in made_of.items())
    return facts if same and path.is_file() and path.stat().st_size and "visible" in facts else None


def _write_composite(
    people: CameraPeople, group: Sequence[int], path: Path, number: int, screens: Screens | None
) -> dict[str, Any]:
    farthest = max(group, key=lambda index: float(people.joints3d[index, int(people.skeleton.root or 0), 2]))
    layers = []
    for index in group:
        change = None
        if screens is not None:
            change = screens.draw(index, number, augmentable(*people.sequences[people.view[index]].split()[:2]))
        if change is not None and index != farthest:
            change = replace(change, background=None)
        layers.append(cut_out(people, index, change, ground=index == farthest))
    composite = compose(layers)
    write_whole(path, encode_jpeg(composite.pixels, _QUALITY))
    return {"order": list(composite.order), "visible": [round(share, 4) for share in composite.visible]}


def _image_entry(people: CameraPeople, index: int, number: int, name: str) -> dict[str, Any]:
    k = people.cameras.intrinsics[int(people.view[index])].tolist()
    width, height = people.size(index)
    camera = {"f": [k[0][0], k[1][1]], "c": [k[0][2], k[1][2]]}
    return {"id": number, "file_name": name, "width": width, "height": height, **camera}


def _person_entry(people: CameraPeople, index: int, number: int, image: int, visible: float) -> dict[str, Any]:
    valid = people.valid3d[index] & people.valid2d[index]
    joints2d = people.joints2d[index]
    low, high = joints2d[valid].min(0), joints2d[valid].max(0)
    return {
        "id": number,
        "image_id": image,
        "bbox": [*low.tolist(), *(high - low).tolist()],
        "keypoints_cam": _rows(people.joints3d[index], valid),
        "keypoints_img": _rows(joints2d, valid),
        "keypoints_vis": [[bool(known)] for known in valid],
        "visible_share": visible,
        "source": people.image[index].decode(),
    }


def _rows(joints: NDArray[np.float32], valid: NDArray[np.bool_]) -> list[list[float | None]]:
    """Joints as lists; null for one without a label."""
    return [row if known else [None] * len(row) for row, known in zip(joints.tolist(), valid, strict=True)]
