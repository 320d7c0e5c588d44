"""The index of prepared data: writing it, and reading its people back in place of the original files."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from posezoo.cameras import Camera
from posezoo.data.crop import Augmentation
from posezoo.data.mat import one_line
from posezoo.disk import replaced
from posezoo.errors import PoseZooError
from posezoo.skeletons import SKELETONS, Skeleton, get_skeleton
from posezoo.structures import Sample

if TYPE_CHECKING:
    from posezoo.data.base import PoseDataModule

INDEX = "prepared.npz"
VERSION = 1
_AGAIN = "prepare it again with posezoo prepare"
JOINT_FIELDS = ("joints3d", "valid3d", "joints2d", "valid2d")
CAMERA_FIELDS = ("intrinsics", "distortion", "distortion_model", "rotation", "translation")

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Settings:
    """What prepared images are good for; see `posezoo prepare --help`.

    Attributes:
        image_size: Largest side of a crop that loses no resolution, px.
        box: What is cropped.
        roll, zoom, shift: Largest augmentation that sees no border where the original has pixels, as in `Augmentation`.
        quality: Of the JPEGs.
    """

    image_size: int = 256
    box: str = "annotation"
    roll: float = 20.0
    zoom: tuple[float, float] = (0.75, 1.25)
    shift: float = 0.10
    quality: int = 95

    def __post_init__(self) -> None:
        Augmentation(self.roll, zoom=self.zoom, shift=self.shift)  # the same rules
        if self.image_size < 1 or not 1 <= self.quality <= 100:
            raise PoseZooError("--image-size must be positive and --quality between 1 and 100.")

    def check(self, data: "PoseDataModule") -> None:
        """Refuse a model or an augmentation that needs more than there is.

        Raises:
            PoseZooError: With what to prepare again.
        """
        if data.image_size > self.image_size:
            wanted = f"the model's crops have {data.image_size} px", f"--image-size {data.image_size}"
        elif data.spec.box != self.box:
            wanted = f"the model's box is '{data.spec.box}'", f"--box {data.spec.box}"
        elif (aug := data.augmentation) is not None and (aug.roll > self.roll or (aug.full_roll and self.roll < 180)):
            wanted = "--data.augmentation rolls farther", f"--roll {180 if aug.full_roll else aug.roll:g}"
        elif aug is not None and aug.zoom[0] < self.zoom[0]:
            wanted = "--data.augmentation zooms farther out", f"--zoom {aug.zoom[0]:g} {self.zoom[1]:g}"
        elif aug is not None and aug.shift > self.shift:
            wanted = "--data.augmentation shifts farther", f"--shift {aug.shift:g}"
        else:
            return
        raise PoseZooError(
            f"{data.root} was prepared for crops of {self.image_size} px, box {self.box}, roll {self.roll:g}, zoom "
            f"from {self.zoom[0]:g} and shift {self.shift:g}, but {wanted[0]}: prepare it again with {wanted[1]}."
        )


def write_index(path: Path, about: Mapping[str, Any], arrays: Arrays) -> None:
    """Write an index in one step: what was there stays until all of the new one is on the disk."""
    text = np.frombuffer(json.dumps(about, ensure_ascii=False).encode(), np.uint8)
    with replaced(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, about=text, **arrays)  # type: ignore[arg-type]


class PreparedRoot:
    """The index under a root folder, read when it is first needed; takes the place of a DataModule's own reader.

    Args:
        data: The DataModule whose `root` was prepared.
    """

    def __init__(self, data: "PoseDataModule") -> None:
        assert data.root is not None
        self.data, self.root = data, data.root
        self._index: tuple[dict[str, Any], Arrays] | None = None
        self._people: dict[str, Any] = {}

    def people(self, split: str) -> Any:
        """The prepared people of a split; "val" and "test" may be the same."""
        from posezoo.data.prepare.people import PreparedPeople  # which needs data.base, which needs this module

        about, arrays = self._open()
        self._check(about)
        if split not in about["splits"]:
            known = ", ".join(about["splits"])
            raise PoseZooError(
                f"{self.root} holds the prepared splits {known}, not '{split}': {_AGAIN}, from files that have it."
            )
        name = about["splits"][split]
        key = f"{name}/{self.data.skeleton}"  # annotated depth order is on the model's parts
        if key not in self._people:
            own = {k.removeprefix(f"{name}/"): v for k, v in arrays.items() if k.startswith(f"{name}/")}
            self._people[key] = PreparedPeople(self.root, about["sets"][name], own, get_skeleton(self.data.skeleton))
        return self._people[key]

    def annotation(self, split: str) -> str:
        """As `PoseDataModule.annotation`."""
        return str(self._open()[0]["annotation"].get(split, ""))

    def annotated_people(self, split: str) -> Any:
        """As `PoseDataModule.annotated_people`."""
        from posezoo.metrics.multiperson import People

        about, arrays = self._open()
        prefix = f"everybody/{about['splits'].get(split)}/"
        found = {k.removeprefix(prefix): torch.as_tensor(v) for k, v in arrays.items() if k.startswith(prefix)}
        if not found:
            return type(self.data).annotated_people(self.data, split)  # which says that there are none
        return People(**found)

    def _open(self) -> tuple[dict[str, Any], Arrays]:
        if self._index is None:
            path = self.root / INDEX
            try:
                with np.load(path, allow_pickle=False) as file:
                    arrays = {name: np.asarray(file[name]) for name in file.files}
                about = json.loads(arrays.pop("about").tobytes())
                if about["version"] != VERSION:
                    raise ValueError(f"version {about['version']}, not {VERSION}")
            except Exception as error:  # a damaged file raises nearly anything
                raise PoseZooError(f"{path} cannot be read ({one_line(error)}): {_AGAIN}.") from error
            self._index = about, arrays
        return self._index

    def _check(self, about: dict[str, Any]) -> None:
        made_by = type(self.data).__name__
        if about["dataset"] != made_by:
            raise PoseZooError(f"{self.root} holds prepared {about['dataset']}: type --data {about['dataset']}.")
        Settings(**about["settings"] | {"zoom": tuple(about["settings"]["zoom"])}).check(self.data)
        arguments = arguments_of(self.data)
        for name, value in about["arguments"].items():
            now = arguments.get(name, value)
            if now != value:
                raise PoseZooError(
                    f"{self.root} was prepared with {name}={value!r}, but --data.{name} is {now!r}: leave it out, or "
                    f"prepare again with --set {name}={now}."
                )


def arguments_of(data: "PoseDataModule") -> dict[str, Any]:
    """What the constructor of a DataModule has beyond the base class's: those of its labels, as JSON has them."""
    import inspect

    from posezoo.data.base import PoseDataModule

    common = inspect.signature(PoseDataModule.__init__).parameters
    own = [n for n in inspect.signature(type(data).__init__).parameters if n not in common and n != "keywords"]
    found = {name: getattr(data, name) for name in own if hasattr(data, name)}
    for name, value in found.items():
        if not _is_plain(value):
            raise PoseZooError(f"--data.{name} changes images as they are read: it needs the original files.")
    return {name: json.loads(json.dumps(value)) for name, value in found.items()}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    return value is None or isinstance(value, str | int | float | bool)


# ------------------------------------------------------------------------------------------- one set of people


def pack_people(
    people: Any, rows: Sequence[int], order_of: Mapping[str, Callable[[int], Sample]]
) -> tuple[dict[str, Any], Arrays]:
    """Everything but the images of some people: what JSON holds, and arrays.

    Args:
        people: A `PoseDataset`.
        rows: Which of its samples.
        order_of: Skeleton name -> reader of a sample whose depth order is on the parts of that skeleton.
    """
    cameras, samples = CameraTable(), []
    for row in rows:
        sample = people.read_labels(row)
        cameras.add(sample.camera)
        samples.append(replace(sample, camera=None))  # some datasets make a camera for every sample
    about: dict[str, Any] = {"skeleton": _skeleton_name(people.skeleton)}
    arrays: Arrays = {"box": np.array([sample.box for sample in samples], np.float32).reshape(-1, 4)}
    arrays["fov"] = np.array([np.nan if sample.fov is None else sample.fov for sample in samples], np.float64)
    for name in JOINT_FIELDS:
        arrays |= _optional(name, [getattr(sample, name) for sample in samples])
    arrays |= cameras.arrays()
    keys = sorted({key for sample in samples for key in sample.identity})
    arrays |= {f"identity/{key}": np.array([s.identity.get(key, 0) for s in samples], np.int64) for key in keys}
    if any(sample.depth_order is not None for sample in samples):
        about["parts"], order = _orders(rows, order_of)
        arrays |= order
    about["meta"], meta = _meta([people.meta(row) for row in rows])
    arrays |= meta
    chosen = np.asarray(rows, np.int64)
    groups, records = people.groups(), people.records()
    if groups is not None:
        arrays["group"], about["groups"] = groups[0][chosen], list(groups[1])
    if records is not None:
        taken = records.take(chosen)
        arrays |= {f"records/{f.name}": v for f in fields(taken) if (v := getattr(taken, f.name)) is not None}
    for name in ("head_sizes", "box_scores"):
        values = getattr(people, name)()
        if values is not None:
            arrays[name] = values[chosen]
    about["report"], about["facts"] = people.report(), {}
    for name, value in _facts(people).items():
        if isinstance(value, np.ndarray):
            arrays[f"facts/{name}"] = value[chosen] if len(value) == len(people) else value
        else:
            about["facts"][name] = value
    return about, arrays


def _skeleton_name(skeleton: Skeleton) -> str:
    if SKELETONS.get(skeleton.name) is not skeleton:
        raise PoseZooError(f"The skeleton '{skeleton.name}' is not one of posezoo's, so its people cannot be prepared.")
    return skeleton.name


def _optional(name: str, values: Sequence[NDArray[Any] | None]) -> Arrays:
    """An array of what may be missing in some rows; nothing where it is missing in all."""
    known = np.array([value is not None for value in values], bool)
    if not known.any():
        return {}
    like = next(np.asarray(value) for value in values if value is not None)
    filled = np.stack([np.zeros_like(like) if value is None else np.asarray(value) for value in values])
    return {name: filled} if known.all() else {name: filled, f"{name}/known": known}


class CameraTable:
    """The distinct cameras of samples, and the place of each sample's among them; -1 for none."""

    def __init__(self) -> None:
        self.cameras: dict[bytes, tuple[int, Camera]] = {}
        self.places: list[int] = []

    def add(self, camera: Camera | None) -> None:
        """The next sample's camera."""
        if camera is None:
            self.places.append(-1)
            return
        key = b"".join(getattr(camera, name).contiguous().numpy().tobytes() for name in CAMERA_FIELDS)
        self.places.append(self.cameras.setdefault(key, (len(self.cameras), camera))[0])

    def arrays(self) -> Arrays:
        """Place of every sample's camera, and the tensors of all cameras."""
        found: Arrays = {"camera": np.array(self.places, np.int32)}
        cameras = [camera for _, camera in self.cameras.values()]
        if cameras:
            found |= {f"cameras/{n}": np.stack([getattr(c, n).numpy() for c in cameras]) for n in CAMERA_FIELDS}
        return found


def _orders(rows: Sequence[int], order_of: Mapping[str, Callable[[int], Sample]]) -> tuple[list[list[str]], Arrays]:
    """Depth order of the parts of all known skeletons, by the names of parent and child."""
    columns: dict[tuple[str, str], tuple[NDArray[Any], NDArray[Any]]] = {}
    for name, read in order_of.items():
        skeleton = get_skeleton(name)
        samples = [read(row) for row in rows]
        parts = np.zeros(len(skeleton.parts), np.int8)
        order = np.stack([parts if s.depth_order is None else s.depth_order for s in samples])
        valid = np.stack([parts.astype(bool) if s.valid_order is None else s.valid_order for s in samples])
        for at, (parent, child) in enumerate(skeleton.parts):
            columns.setdefault((skeleton.joints[parent], skeleton.joints[child]), (order[:, at], valid[:, at]))
    orders, valids = zip(*columns.values(), strict=True)
    names = [list(part) for part in columns]
    return names, {"order": np.stack(orders, 1).astype(np.int8), "valid_order": np.stack(valids, 1).astype(bool)}


def _meta(rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, str], Arrays]:
    """Names as columns; UTF-8, since arrays of text take four bytes for every letter."""
    kinds, arrays = {}, {}
    for key in dict.fromkeys(key for row in rows for key in row):
        values = [row.get(key) for row in rows]
        kind = "text" if all(isinstance(value, str) for value in values) else "json"
        texts = [value if kind == "text" else json.dumps(value, default=str) for value in values]
        kinds[key], arrays[f"meta/{key}"] = kind, np.array([str(text).encode() for text in texts], np.bytes_)
    return kinds, arrays


def _facts(people: Any) -> dict[str, Any]:
    """Other attributes of a dataset of people, which the text of its protocol may be made of: numbers and names."""
    names = [f.name for f in fields(people)] if is_dataclass(people) else [n for n in vars(people) if n[0] != "_"]
    found = {}
    for name in names:
        value = getattr(people, name)
        flat = isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in "biufSU"
        if flat or _is_plain(value):
            found[name] = value
    return found
