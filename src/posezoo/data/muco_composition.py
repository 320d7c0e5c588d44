"""Images of several people out of single-person frames of MPI-INF-3DHP: the composition of MuCo-3DHP.

The frame of the farthest person is the ground; nearer people and their chairs are laid over it by the release's masks,
so that everyone hides those behind. All frames of an image come from one camera: labels stay exact as they are.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from posezoo.data.annotated import CameraPeople
from posezoo.data.green_screen import (
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
from posezoo.data.images import open_image
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
    masks = [soft_mask(open_image(mask_path(path, kind)).decode()) for kind in ("FGmasks", "ChairMasks")]
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


def make_composites(
    people: CameraPeople,
    out: Path,
    count: int,
    per_image: int = 4,
    apart: float = 400.0,
    seed: int = 0,
    screens: Screens | None = None,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Write composites as `MuCo3DHP` reads them: JPEG files and, last, MuCo-3DHP.json.

    Image i depends on (seed, i) and the frames alone; files that are there already are not made again, so that an
    interrupted run goes on.

    Args:
        people: Training frames of `MPIINF3DHP` in the release's layout, with masks.
        out: Folder to write to.
        count: Images.
        per_image: People in each.
        apart: Least distance between two pelvises, mm.
        seed: Another one makes other images.
        screens: Other backgrounds and clothes.
        progress: Called with the number of each finished image.

    Returns:
        The JSON file.

    Raises:
        PoseZooError: The frames do not suffice, or one of them cannot be read.
    """
    if count < 1 or per_image < 1:
        raise PoseZooError(f"A set of composites has at least 1 image of 1 person, got {count} of {per_image}.")
    if people.skeleton is not MUCO21:
        raise PoseZooError("Composites need the release's layout of MPI-INF-3DHP, which has masks and all joints.")
    (out / FOLDER).mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(count):
        rng = np.random.default_rng((_DOMAIN, seed, number))
        group = choose_people(people, per_image, apart, rng)
        name = f"{FOLDER}/{number:06d}.jpg"
        note = out / FOLDER / f"{number:06d}.json"
        made_of = _recipe(people, group, number, screens)
        facts = _finished(out / name, note, made_of)
        if facts is None:
            facts = made_of | _write_composite(people, group, out / name, number, screens)
            _replace(note, json.dumps(facts).encode())
        images.append(_image_entry(people, group[0], number, name))
        annotations += [
            _person_entry(people, index, len(annotations) + place, number, facts["visible"][place])
            for place, index in enumerate(group)
        ]
        if progress is not None:
            progress(number)
    target = out / TABLE
    _replace(target, json.dumps({"images": images, "annotations": annotations}).encode())
    return target


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
    done, content = cv2.imencode(
        ".jpg", cv2.cvtColor(composite.pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    )
    assert done
    _replace(path, content.tobytes())
    return {"order": list(composite.order), "visible": [round(share, 4) for share in composite.visible]}


def _replace(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    os.replace(part, path)


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
