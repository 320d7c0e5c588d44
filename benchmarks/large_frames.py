"""From a JPEG to an augmented crop of 256 px, of large frames and of prepared data: 3DMPPE's way and `CropDataset`'s.

Prepared data are made of the samples of Human3.6M and MPI-INF-3DHP below $POSEZOO_SHARED (../shared) where these are
there, and of rendered frames with the like cameras where not.
"""

import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.cases import OURS, REFERENCE, Bench, Case, Target, register
from benchmarks.core import ROOT
from posezoo.cameras import Camera, CropCamera
from posezoo.data import MPIINF3DHP, Human36M
from posezoo.data.base import CropDataset, PoseDataModule, PoseDataset, open_image, read_image
from posezoo.data.crop import Augmentation, CropDraw, CropSpec, crop_camera, make_labels, warp
from posezoo.data.prepare.build import prepare
from posezoo.data.prepare.layout import Settings
from posezoo.data.synthetic import render_sample
from posezoo.data.transport import collate
from posezoo.errors import PoseZooError
from posezoo.skeletons import H36M17, get_skeleton
from posezoo.structures import Sample

SIDE, FINER = 256, 8
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
ORIGINAL, BATCH = "the original files", 32
SAMPLES = Path(os.environ.get("POSEZOO_SHARED", ROOT / ".." / "shared")) / "data"
LENS = [-0.2071, 0.2478, -0.0014, -0.00098, -0.0031]  # of a Human3.6M camera
FOLDER = tempfile.TemporaryDirectory(prefix="posezoo-bench-")  # gone when the process ends


def frame(size: int) -> Path:
    """A rendered room with people as a JPEG of `size` px, with as much grain as makes a photograph's bytes."""
    path = Path(FOLDER.name) / f"{size}.jpg"
    if not path.exists():
        image = cv2.resize(render_sample(0, size=256).image, (size, size), interpolation=cv2.INTER_CUBIC)
        grain = np.random.default_rng(0).normal(0, 3, image.shape)
        noisy = np.clip(image + grain, 0, 255).astype(np.uint8)
        cv2.imwrite(str(path), noisy[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    return path


def matrix(box: NDArray[np.float32], flip: bool, width: int, crop_side: int = SIDE) -> NDArray[np.float64]:
    """Frame (or, with `flip`, mirrored frame) to crop: centre to centre, as in `posezoo.cameras`."""
    left, top, side, _ = box.astype(np.float64)
    x, y = left + side / 2, top + side / 2
    x = width - 1 - x if flip else x
    scale, centre = crop_side / side, (crop_side - 1) / 2
    return np.array([[scale, 0, centre - scale * x], [0, scale, centre - scale * y]])


def reference(path: Path, box: NDArray[np.float32], flip: bool) -> torch.Tensor:
    """Decode all of it, mirror all of it, warp, normalise: float32 [3, S, S]."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR).copy()
    if flip:
        image = image[:, ::-1]
    crop = cv2.warpAffine(image, matrix(box, flip, image.shape[1]), (SIDE, SIDE), flags=cv2.INTER_LINEAR)
    pixels = crop[..., ::-1].astype(np.float32) / 255
    return torch.from_numpy(np.ascontiguousarray(((pixels - MEAN) / STD).transpose(2, 0, 1)))


def ours(path: Path, person: Sample, flip: bool) -> dict[str, Any]:
    """The row of a `Batch`: uint8 crop and every label."""
    skeleton = get_skeleton("h36m17")
    spec = CropSpec(skeleton, SIDE, "image_plane", "annotation")
    image = open_image(path)
    crop: CropCamera = crop_camera(person, skeleton, spec, CropDraw(flip=flip))
    row = make_labels(person, skeleton, spec, crop)
    row["image"] = torch.from_numpy(np.ascontiguousarray(warp(image, crop).transpose(2, 0, 1)))
    return row


def oracle(path: Path, box: NDArray[np.float32], flip: bool) -> NDArray[np.float64]:
    """Grey levels [S, S, 3] in float64: many samples per crop pixel, then their mean."""
    image = read_image(path).astype(np.float32)
    image = image[:, ::-1].copy() if flip else image
    fine = matrix(box, flip, image.shape[1], SIDE * FINER)
    large = cv2.warpAffine(image, fine, (SIDE * FINER,) * 2, flags=cv2.INTER_LINEAR).astype(np.float64)
    return large.reshape(SIDE, FINER, SIDE, FINER, 3).mean((1, 3))


def make(size: int, quick: bool) -> Bench:
    size = 512 if quick else size
    path = frame(size)
    box = np.array([0.2 * size, 0.25 * size, 0.5 * size, 0.5 * size], np.float32)
    rng = np.random.default_rng(0)
    camera = Camera.from_field_of_view(50.0, size, size)
    joints = (300 * rng.standard_normal((17, 3)) + [0, 0, 4000]).astype(np.float32)
    person = Sample(None, box, (size, size), camera, joints)
    flips = (False, True)
    calls = {
        REFERENCE: lambda: [reference(path, box, flip) for flip in flips],
        OURS: lambda: [ours(path, person, flip) for flip in flips],
    }

    def errors() -> dict[str, float]:
        """Root mean square over both crops."""
        exact = [oracle(path, box, flip).transpose(2, 0, 1) for flip in flips]
        floats = [image.double().numpy() * STD[:, None, None] + MEAN[:, None, None] for image in calls[REFERENCE]()]
        found = {
            REFERENCE: [255 * image for image in floats],
            OURS: [row["image"].double().numpy() for row in calls[OURS]()],
        }
        return {name: float(np.sqrt(np.mean((np.array(crops) - exact) ** 2))) for name, crops in found.items()}

    # The reference skips source pixels, so that it keeps the grain that averaging removes.
    return Bench(calls, errors, {REFERENCE: 6.0, OURS: 2.0}, items=len(flips))


class RenderedFrames(PoseDataModule):
    """A person in a rendered frame of `size` px, with or without lens distortion."""

    def __init__(self, root: str | None = None, *, size: int = 2048, lens: bool = False, **keywords: Any) -> None:
        super().__init__(root, **keywords)
        self.size, self.lens = size, lens

    def people(self, split: str) -> PoseDataset:
        if split != "test":
            raise PoseZooError("rendered frames are a test split")
        return OneFrame(self.size, self.lens)


class OneFrame(PoseDataset):
    skeleton = H36M17

    def __init__(self, size: int, lens: bool) -> None:
        self.path = frame(size)
        k = Camera.from_field_of_view(50.0, size, size).intrinsics
        box = np.array([0.25 * size, 0.25 * size, 0.25 * size, 0.45 * size], np.float32)
        camera = Camera.create(k, LENS if lens else None, "h36m" if lens else None)
        joints = (300 * np.random.default_rng(0).standard_normal((17, 3)) + [-500, -200, 4000]).astype(np.float32)
        self.sample = Sample(None, box, (size, size), camera, joints)

    def __len__(self) -> int:
        return 1

    def read(self, index: int, draw: int = 0) -> Sample:
        return replace(self.sample, image=open_image(self.path))

    def read_labels(self, index: int) -> Sample:
        return self.sample


def human36m(root: str | None, quick: bool, **keywords: Any) -> PoseDataModule:
    if not quick and (SAMPLES / "h36m").is_dir():
        return Human36M(root or str(SAMPLES / "h36m"), **keywords)
    return RenderedFrames(root, size=256 if quick else 1000, lens=True, **keywords)


def mpi_inf_3dhp(root: str | None, quick: bool, **keywords: Any) -> PoseDataModule:
    if not quick and (SAMPLES / "mpi_inf_3dhp").is_dir():
        return MPIINF3DHP(root or str(SAMPLES / "mpi_inf_3dhp"), **keywords)
    return RenderedFrames(root, size=512 if quick else 2048, **keywords)


def make_prepared(kind: Callable[..., PoseDataModule], augmentation: Augmentation, quick: bool) -> Bench:
    """Batches of training crops as one loader process makes them, of prepared data and of the original files."""
    out = Path(FOLDER.name) / f"{kind.__name__}-{quick}"
    if not out.exists():
        prepare(kind(None, quick), out, Settings())
    sources = {}
    for name, root in ((ORIGINAL, None), (OURS, str(out))):
        data = kind(root, quick, crop="look_at")
        sources[name] = CropDataset(data.people("test"), data.spec, augmentation)
    keys = [(draw % len(sources[OURS]), draw) for draw in range(4 if quick else BATCH)]
    calls = {name: partial(load, crops, keys) for name, crops in sources.items()}

    def errors() -> dict[str, float]:
        """Root mean square difference of the pixels; everything else is the same."""
        exact, found = (calls[name]() for name in (ORIGINAL, OURS))
        assert all(torch.equal(exact[key], found[key]) for key in exact if key != "image")
        apart = (exact["image"].double() - found["image"].double()).square().mean().sqrt()
        return {ORIGINAL: 0.0, OURS: float(apart)}

    return Bench(calls, errors, {ORIGINAL: 0.0, OURS: 8.0}, items=len(keys))


def load(crops: CropDataset, keys: list[tuple[int, int]]) -> Any:
    return collate([crops[key] for key in keys])


GEOMETRY, ALL = Augmentation(occlusion=0, colour=False), Augmentation()
register(
    Case("large_frames/2048px", make, {"size": 2048}, (Target("speed", 3.0),), "grey levels"),
    Case("large_frames/1000px", make, {"size": 1000}, (), "grey levels"),
    *(
        Case(
            f"large_frames/prepared-{kind.__name__}{'' if augmentation is GEOMETRY else '-colour-and-occlusion'}",
            make_prepared,
            {"kind": kind, "augmentation": augmentation},
            (Target("rate", 700.0),) if augmentation is GEOMETRY else (),
            "grey levels",
        )
        for kind in (human36m, mpi_inf_3dhp)
        for augmentation in (GEOMETRY, ALL)
    ),
)
