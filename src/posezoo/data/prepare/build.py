"""Making prepared data: one small JPEG for every person, then the index. A run that was ended goes on with the rest."""

import errno
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from posezoo.data.base import CropDataset, PoseDataModule, PoseDataset, single_threaded
from posezoo.data.crop import CropDraw, CropSpec, averaging, crop_camera, footprint, subject_box
from posezoo.data.files import write_whole
from posezoo.data.images import Pixels, SourceImage, as_source, jpeg_size
from posezoo.data.jpeg_tiles import encode_tiled
from posezoo.data.prepare.layout import INDEX, VERSION, Arrays, Settings, arguments_of, pack_people, write_index
from posezoo.data.prepare.people import PreparedPeople
from posezoo.data.prepare.video import FRAMES, with_frames
from posezoo.errors import PoseZooError
from posezoo.skeletons import SKELETONS, get_skeleton
from posezoo.structures import Sample

SPLITS = ("train", "val", "test")
STATE = "preparation.json"  # what a folder of unfinished work is made of
_MARGIN = 3.0  # stored px around what a crop can see, for the bilinear warp
_CHECKED = 12  # people whose crops are compared with those of the original files
_FILES_PER_FOLDER = 1000

Region = tuple[float, float, float, float]  # left, top, and step along x and y


@dataclass(frozen=True)
class Done:
    """What became of one person: a region and a source size, or why it was skipped."""

    row: int
    region: Region | None = None
    size: tuple[int, int] = (0, 0)
    kept: bool = False
    why: str = ""


@dataclass
class Report:
    """What a preparation did.

    Attributes:
        people: Prepared people by set ("train" ...); `kept` of them were there from an earlier run.
        skipped: (set, row, why) of the others.
        missing: Why splits could not be opened, by name.
        decibels: Likeness of some crops to those from the original files (PSNR).
    """

    people: dict[str, int] = field(default_factory=dict)
    kept: int = 0
    skipped: list[tuple[str, int, str]] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    decibels: list[float] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The report in words."""
        found = [f"{name}: {count} people" for name, count in self.people.items()]
        found += [f"kept from an earlier run: {self.kept}"] if self.kept else []
        found += [f"no {split}: {why}" for split, why in self.missing.items()]
        for (name, why), count in Counter((name, _kind(why)) for name, _, why in self.skipped).most_common(10):
            example = next(text for other, _, text in self.skipped if (other, _kind(text)) == (name, why))
            found.append(f"skipped in {name}: {count}, such as: {example}")
        if self.decibels:
            found.append(
                f"checked: crops of {len(self.decibels)} people against those of the original files, PSNR "
                f"{np.median(self.decibels):.1f} dB, worst {min(self.decibels):.1f} dB; labels equal"
            )
        return found


def _kind(why: str) -> str:
    """A reason without the names in it."""
    return " ".join(word for word in why.split() if "/" not in word and not any(map(str.isdigit, word)))


def prepare(
    data: PoseDataModule,
    out: Path,
    settings: Settings,
    workers: int = 0,
    track: Callable[[Iterable[Any], str, int], Iterable[Any]] = lambda items, name, count: items,
) -> Report:
    """Prepare every split of a dataset.

    Args:
        data: The DataModule of the original files.
        out: Folder to write.
        settings: What the images are to be good for.
        workers: Processes that make images.
        track: Wraps the people of a set (with its name and their number), for a progress bar.

    Raises:
        PoseZooError: Nothing can be read or written, `out` holds something else, or a check failed.
    """
    data.box, data.from_videos = settings.box, True  # type: ignore[assignment]
    settings = replace(settings, box=data.spec.box)  # of datasets without depths it is the annotated one
    if data.root is not None and (data.root / INDEX).is_file():
        raise PoseZooError(f"{data.root} is prepared already: give the original files as --raw.")
    about: dict[str, Any] = {
        "version": VERSION,
        "dataset": type(data).__name__,
        "settings": asdict(settings) | {"zoom": list(settings.zoom)},
        "arguments": arguments_of(data),
        "raw": str(data.root.resolve() if data.root else ""),
    }
    with writing(out):
        claim(out, about)
    report, sets = Report(), _open_splits(data)
    report.missing = sets.missing
    if not sets.people:
        reasons = list(sets.missing.values())
        about_files = [why for why in reasons if str(data.root) in why]  # not that a dataset never has such a split
        raise PoseZooError(next(iter(about_files + reasons), f"{type(data).__name__} has no people to prepare."))
    about |= {"splits": sets.splits, "sets": {}, "annotation": {s: data.annotation(s) for s in sets.splits}}
    arrays: Arrays = {}
    for name, found in sets.people.items():
        people = with_frames(found, data.root or out, out, workers, track)
        done = list(track(_prepare_set(people, name, out, settings, workers), name, len(people)))
        _note(report, name, done)
        rows = [one for one in done if one.region is not None]
        if not rows:
            first = done[0].why if done else "it is empty"
            raise PoseZooError(f"Nobody in the '{name}' split can be prepared: {first}")
        about["sets"][name], own = pack_people(people, [one.row for one in rows], _order_readers(data, name))
        about["sets"][name]["skipped"] = len(done) - len(rows)
        own["file"] = np.array([file_name(name, one.row).encode() for one in rows], np.bytes_)
        own["region"] = np.array([one.region for one in rows], np.float64)
        own["size"] = np.array([one.size for one in rows], np.int32)
        prepared = PreparedPeople(out, about["sets"][name], own, get_skeleton(data.skeleton))
        report.decibels += likeness(people, prepared, [one.row for one in rows], settings)
        arrays |= {f"{name}/{key}": value for key, value in own.items()} | _everybody(data, name)
    with writing(out):
        (out / "skipped.txt").write_text("".join(f"{n} {row}: {why}\n" for n, row, why in report.skipped), "utf-8")
        write_index(out / INDEX, about, arrays)
        shutil.rmtree(out / FRAMES, ignore_errors=True)
    return report


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Say in one sentence what keeps a folder from being written."""
    try:
        yield
    except OSError as error:
        raise PoseZooError(write_error(out, error)) from error


def write_error(out: Path, error: OSError) -> str:
    """Why a folder cannot be written, and what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk of {out} is full: make room and type the same command again, it goes on where it stopped."
    return f"{out} cannot be written ({error.strerror or error}): give another folder as --root."


def claim(out: Path, about: dict[str, Any]) -> None:
    """Begin in an empty folder, or go on in one of the same preparation.

    Raises:
        PoseZooError: The folder holds something else.
    """
    out.mkdir(parents=True, exist_ok=True)
    state = out / STATE
    if state.is_file():
        try:
            before = json.loads(state.read_text("utf-8"))
        except ValueError:
            before = {}
        other = [key for key, value in about.items() if before.get(key) != value]
        if other:
            detail = f"its {other[0]} is {before.get(other[0])!r}, now {about[other[0]]!r}"
            raise PoseZooError(f"{out} holds another preparation ({detail}): give another --root, or delete that one.")
    elif any(out.iterdir()):
        raise PoseZooError(f"{out} holds other files: give an empty or new folder as --root.")
    else:
        write_whole(state, json.dumps(about, indent=1).encode())


@dataclass
class _Sets:
    """Distinct sets of people by the first split that has them; the set of each split; and why others are missing."""

    people: dict[str, PoseDataset] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def _open_splits(data: PoseDataModule) -> _Sets:
    sets = _Sets()
    for split in SPLITS:
        try:
            people = data.people(split)
        except PoseZooError as error:
            sets.missing[split] = str(error)
            continue
        if len(people) == 0:
            sets.missing[split] = "it is empty"
            continue
        same = next((name for name, other in sets.people.items() if other is people), split)
        sets.people[same] = people
        sets.splits[split] = same
    return sets


def _note(report: Report, name: str, done: list[Done]) -> None:
    report.people[name] = sum(one.region is not None for one in done)
    report.kept += sum(one.kept for one in done)
    report.skipped += [(name, one.row, one.why) for one in done if one.region is None]


def _order_readers(data: PoseDataModule, split: str) -> dict[str, Callable[[int], Sample]]:
    """Readers of a split's labels for every known skeleton: annotated depth order is on the model's parts."""

    def reader(skeleton: str) -> Callable[[int], Sample]:
        @cache  # opened once, and only if there is annotated depth order
        def people() -> PoseDataset:
            return type(data)(str(data.root), skeleton=skeleton, **arguments_of(data)).people(split)

        return lambda row: people().read_labels(row)

    return {name: reader(name) for name in {known.name for known in SKELETONS.values()}}


def _everybody(data: PoseDataModule, split: str) -> Arrays:
    """What `annotated_people` says of a split, if it knows."""
    try:
        people = data.annotated_people(split)
    except PoseZooError:
        return {}
    named = {name: getattr(people, name) for name in people.__dataclass_fields__}
    return {f"everybody/{split}/{name}": v.numpy() for name, v in named.items() if v is not None}


def file_name(name: str, row: int) -> str:
    """The JPEG of a person, below the root."""
    return f"people/{name}/{row // _FILES_PER_FOLDER:04d}/{row:07d}.jpg"


# ------------------------------------------------------------------------------------------------- one person


class _Jobs(Dataset[Done]):
    """Number of a person -> its JPEG; for the processes of a DataLoader."""

    def __init__(self, people: PoseDataset, name: str, out: Path, settings: Settings) -> None:
        self.name, self.out, self.settings = name, out, settings
        self.reader = CropDataset(people, spec_of(settings, people))

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, row: int) -> Done:
        try:
            return self._person(row)
        except PoseZooError as error:
            return Done(row, why=str(error))

    def _person(self, row: int) -> Done:
        sample = self.reader.read_checked(row)
        assert sample.image is not None
        source = as_source(sample.image)
        region, size = region_of(sample, self.reader.people, self.settings)
        path = self.out / file_name(self.name, row)
        kept = _is_whole(path, size)
        if not kept:
            content = encode_tiled(cut(source, region, size), self.settings.quality)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(path, content)
            except OSError as error:
                raise Unwritable(write_error(self.out, error)) from error
        return Done(row, region, source.size, kept)


class Unwritable(RuntimeError):
    """Ends the whole preparation, unlike an image that cannot be read."""


def _prepare_set(people: PoseDataset, name: str, out: Path, settings: Settings, workers: int) -> Iterator[Done]:
    jobs = _Jobs(people, name, out, settings)
    loader: DataLoader[Any] = DataLoader(
        jobs, batch_size=None, num_workers=workers, worker_init_fn=single_threaded if workers else None
    )
    try:
        yield from loader
    except Unwritable as error:
        raise PoseZooError(str(error).rpartition(f"{Unwritable.__name__}: ")[2].strip()) from error


def spec_of(settings: Settings, people: PoseDataset) -> CropSpec:
    """The finest crop that prepared images serve."""
    return CropSpec(people.skeleton, settings.image_size, "image_plane", settings.box)  # type: ignore[arg-type]


def region_of(sample: Sample, people: PoseDataset, settings: Settings) -> tuple[Region, tuple[int, int]]:
    """The part of the source image that augmented crops can see, and the (width, height) to store it in, px.

    Both kinds of crop are looked at, with the farthest rolls and zooms. Boxes of integers, aligned with what a JPEG can
    be reduced by.
    """
    spec, box = spec_of(settings, people), subject_box(sample, people.skeleton, spec_of(settings, people))
    roll = min(settings.roll, 45.0)  # a square is widest at 45 degrees
    borders, scales = [], []
    for kind in ("image_plane", "look_at"):
        wanted = replace(spec, crop=kind)
        for turn in (-roll, 0.0, roll):
            crop = crop_camera(sample, people.skeleton, wanted, CropDraw(turn, settings.zoom[0], box=box))
            borders.append(footprint(crop)[0])
        near = crop_camera(sample, people.skeleton, wanted, CropDraw(zoom=settings.zoom[1], box=box))
        scales.append(footprint(near)[1])
    step = max(min(scales), 1.0)
    room = settings.shift * max(box[2:]) + _MARGIN * step
    points = np.concatenate(borders)
    return _aligned(points.min(0) - room, points.max(0) + room, sample.size, step)


def _aligned(
    low: NDArray[Any], high: NDArray[Any], size: tuple[int, int], step: float
) -> tuple[Region, tuple[int, int]]:
    block = averaging(step, (1, 2, 4, 8))[0]
    limit = -(-np.array(size) // block)
    first = np.clip(np.floor(low / block), 0, limit - 1).astype(int)
    last = np.clip(np.ceil(high / block), first + 1, limit).astype(int)
    extent = (last - first) * block
    stored = np.maximum(np.ceil(extent / step - 1e-6), 1).astype(int)
    if step < 1.1 * block:  # resampling by so little only blurs
        stored = extent // block
    steps = extent / stored
    left, top = first * block
    return (float(left), float(top), float(steps[0]), float(steps[1])), (int(stored[0]), int(stored[1]))


def cut(source: SourceImage, region: Region, size: tuple[int, int]) -> Pixels:
    """The pixels of a region, averaged to a size.

    Raises:
        ImageError: The file is damaged.
    """
    left, top, step_x, step_y = region
    block = averaging(min(step_x, step_y), source.reductions)[0]
    pixels = source.decode(block)
    x0, y0 = round(left / block), round(top / block)
    x1, y1 = round((left + step_x * size[0]) / block), round((top + step_y * size[1]) / block)
    patch = pixels[y0:y1, x0:x1]
    missing = y1 - y0 - patch.shape[0], x1 - x0 - patch.shape[1]
    if any(missing):  # an image whose size is no multiple of what a JPEG of its size would be reduced by
        patch = np.asarray(cv2.copyMakeBorder(patch, 0, missing[0], 0, missing[1], cv2.BORDER_REPLICATE), np.uint8)
    if patch.shape[1::-1] != size:
        patch = np.asarray(cv2.resize(patch, size, interpolation=cv2.INTER_AREA), np.uint8)
    return patch


def _is_whole(path: Path, size: tuple[int, int]) -> bool:
    """Whether a JPEG of an earlier run is there to its end and has the right size."""
    if not path.is_file():
        return False
    content = path.read_bytes()
    return content[-2:] == b"\xff\xd9" and jpeg_size(content) == size


def likeness(people: PoseDataset, prepared: PoseDataset, rows: list[int], settings: Settings) -> list[float]:
    """PSNR (dB) of a few unaugmented crops of prepared people against those of the original files.

    Raises:
        RuntimeError: A label differs: a mistake in posezoo, or files that changed meanwhile.
    """
    spec, found = spec_of(settings, people), []
    before, after = CropDataset(people, spec), CropDataset(prepared, spec)
    for place in np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _CHECKED)).astype(int)):
        one, other = before[rows[place]], after[int(place)]
        for key in one.keys() - {"image", "index"}:
            if not torch.equal(one[key], other[key]):
                raise RuntimeError(f"sample {rows[place]}: '{key}' of the prepared data differs from the original")
        error = float(((one["image"].double() - other["image"].double()) ** 2).mean())
        found.append(float(10 * np.log10(255**2 / max(error, 1e-3))))
    return found
