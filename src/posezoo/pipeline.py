"""`PosePipeline`: from pictures to people in millimetres: boxes, crops, network, back to the camera, merge.

    import posezoo
    pose = posezoo.load("metrabs_resnet10.synthetic_v1")
    people = pose("photo.jpg")
    people.joints3d                     # [N, J, 3] mm in the camera's frame

The crops are made by the camera code that training uses, so a network sees what it was trained on.
"""

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posezoo.cameras import Camera, CropCamera
from posezoo.data.batch_crop import crop_boxes, warp_crops
from posezoo.data.crop import FOV_PHOTOGRAPH
from posezoo.data.images import Pixels
from posezoo.data.pictures import check_box, read_image
from posezoo.detect import PersonDetector, WholeImage, make_detector
from posezoo.errors import PoseZooError
from posezoo.people import People, project_joints
from posezoo.runtimes import Precision, Runtime, check_runtime, for_inference
from posezoo.structures import IDENTITIES, Batch, Prediction, to_device
from posezoo.suppression import plausible, without_duplicates

UP = (0.0, -1.0, 0.0)
SMALLEST_SIDE = 8  # px; no person can be seen in less
MEMORY_MB = 1024  # for the activations of one forward pass
_ALWAYS_TOGETHER = 8  # crops that go through the network in one piece, whatever they need
_ACTIVATION_FACTOR = 3  # live memory of a forward pass, in units of its largest layer's input and output
_WIDE_BOX = 2000 / 1700  # a box of 2 m, in heights of a person
_MOST_ROLL, _MOST_ZOOM = 12.0, 0.1  # degrees and share, at the ends of test-time augmentation
_MIDDLE, _OFF = 0.05, 0.2  # how near to the middle of a size a principal point is "in" it, and how far it is off it
_FURTHEST = 10.0  # half picture sizes from the middle: a cut-out of a tenth of a picture lies within


def load(
    name_or_path: str | os.PathLike[str] | None = None,
    device: str | torch.device | None = None,
    *,
    detector: str | PersonDetector = "auto",
    threshold: float = 0.5,
    root_depth: float | str | None = None,
    memory_mb: int = MEMORY_MB,
    runtime: Runtime = "torch",
    precision: Precision = "float32",
) -> "PosePipeline":
    """Poses from pictures, by the name of weights.

    Args:
        name_or_path: A name from `posezoo.list_weights()`, a folder of weights, or a run's `.ckpt`; None for the small
            MeTRAbs that comes with posezoo.
        device: "cpu", "cuda", "cuda:1", ...; None for a GPU where there is one.
        detector: "auto", "torchvision", "torchvision:MODEL", "none" (the whole picture is one box) or a
            `PersonDetector`. It is made on first use: given boxes need none.
        threshold: Least score of a detected person.
        root_depth: How 2.5D methods find the distance to the camera: "bone_length", "rootnet" or mm; None for what the
            weights say.
        memory_mb: Bound on the network's activations, MiB: more crops go through it in several passes.
        runtime: What the network runs in: "torch", or "openvino" (on the CPU; an extra, `posezoo[openvino]`).
        precision: What its convolutions compute in: "float32", or "bfloat16", which moves joints by millimetres.

    Raises:
        PoseZooError: No such weights, an argument that does not fit them, or OpenVINO is not installed.
    """
    from posezoo.zoo import load_model

    check_runtime(runtime, precision)  # before weights are fetched
    name = default_weights() if name_or_path is None else name_or_path
    return PosePipeline(
        load_model(name),
        device,
        detector=detector,
        threshold=threshold,
        root_depth=root_depth,
        memory_mb=memory_mb,
        runtime=runtime,
        precision=precision,
    )


def default_weights() -> str:
    """The weights that are taken when none are named: the first bundled MeTRAbs of the catalogue.

    Raises:
        PoseZooError: This posezoo comes without weights.
    """
    from posezoo.zoo import catalogue

    names = [name for name, entry in catalogue().items() if entry.bundled]
    preferred = [name for name in names if name.startswith("metrabs")] or names
    if not preferred:
        raise PoseZooError("this posezoo comes without weights: name a checkpoint, such as runs/.../last.ckpt.")
    return preferred[0]


@dataclass(frozen=True)
class _Picture:
    """One picture of a call, opened."""

    pixels: Pixels
    name: str  # for messages
    kept: Pixels | Path  # for `People.draw`

    @property
    def size(self) -> tuple[int, int]:
        return self.pixels.shape[1], self.pixels.shape[0]


@dataclass(frozen=True)
class _Request:
    """A picture with everything that is known of it before the network runs."""

    picture: _Picture
    camera: Camera
    calibrated: bool
    boxes: NDArray[np.float32]
    box_scores: NDArray[np.float32]
    given: bool  # by the caller, or the whole picture: never suppressed


@dataclass(frozen=True)
class _Poses:
    """What the network says of a number of boxes, in the cameras' frames."""

    joints3d: NDArray[np.float32]
    scores: NDArray[np.float32]
    spread: NDArray[np.float32] | None  # mm over test-time augmentation
    root_depth_source: str


class PosePipeline:
    """Finds everybody in pictures, in millimetres in the camera's frame.

    Args:
        model: A trained estimator (of `posezoo.load_model`). Its batch norms are folded in a copy.
        device: Where the network runs; None for a GPU where there is one.
        detector: See `posezoo.load`.
        threshold: Least score of a detected person.
        root_depth: See `posezoo.load`.
        memory_mb: See `posezoo.load`.
        runtime: See `posezoo.load`.
        precision: See `posezoo.load`.
    """

    def __init__(
        self,
        model: Any,
        device: str | torch.device | None = None,
        *,
        detector: str | PersonDetector = "auto",
        threshold: float = 0.5,
        root_depth: float | str | None = None,
        memory_mb: int = MEMORY_MB,
        runtime: Runtime = "torch",
        precision: Precision = "float32",
    ) -> None:
        if memory_mb < 1:
            raise PoseZooError(f"memory_mb must be at least 1 (MiB), got {memory_mb}.")
        if type(model).__name__ == "RootNet":
            raise PoseZooError("RootNet finds the root alone: load a pose model, and give it --root-depth rootnet.")
        self.device = _device(_cpu(device) if runtime == "openvino" else device)
        self.runtime, self.precision = runtime, precision
        self.model = model.to(self.device).eval()
        self.skeleton, self.image_size, self.crop = model.skeleton, model.image_size, model.crop
        self.memory_mb, self.threshold = memory_mb, threshold
        self._detector_wanted, self._detector = detector, None if isinstance(detector, str) else detector
        self._crop_bytes: float | None = None
        self._box_factor = 1.0
        _set_root_depth(self.model, root_depth)
        if model.box == "pelvis_2000mm":
            self._box_factor = _WIDE_BOX
            _warn("these weights were trained on boxes of 2 m around the true pelvis: boxes are widened to squares.")
        if runtime == "openvino":
            self._crop_bytes = self._measure()  # now: later no layer is to be seen
        self.model = for_inference(self.model, runtime, precision)

    def __repr__(self) -> str:
        how = [str(self.device), *(word for word in (self.runtime, self.precision) if word not in ("torch", "float32"))]
        return f"PosePipeline({type(self.model).__name__}, {self.skeleton}, {self.image_size} px, {', '.join(how)})"

    @property
    def detector(self) -> PersonDetector:
        """Made on first use, so that given boxes need no detector's weights."""
        if self._detector is None:
            self._detector = make_detector(cast(str, self._detector_wanted), self.threshold, self.device)
        return self._detector

    # -------------------------------------------------------------------------------------------------- the call

    @torch.inference_mode()
    def __call__(
        self,
        image: Any,
        boxes: Any = None,
        camera: Any = None,
        fov: float = FOV_PHOTOGRAPH,
        tta: int = 1,
        max_people: int | None = None,
        up: Sequence[float] = UP,
    ) -> Any:
        """Everybody in a picture, or in each of several.

        Args:
            image: RGB array [H, W, 3] (also grey, with an alpha channel, of 16 bits, or floats in 0..1), a tensor
                [3, H, W], a PIL image, a path; or a list of them (or an array [N, H, W, 3]).
            boxes: [N, 4] left, top, width, height in px of the upright picture, or [N, 5] with scores; for a list of
                pictures a list of such arrays (None in it: detect). None: the detector finds people. People of given
                boxes come back in their order, none left out.
            camera: `Camera`, or intrinsics [3, 3]; for a list of pictures one for all, or a list. None: unknown.
            fov: Field of view along the longer side, degrees, that is assumed where the camera is unknown.
            tta: Views of each person (mirrored, and slightly turned and zoomed) to average over; 1 is the crop alone.
            max_people: Keep so many in each picture, those of the highest box score.
            up: Direction against gravity in the camera's frame; (0, -1, 0) for a level camera.

        Returns:
            `People`, or a list of `People` for several pictures. Nobody found gives empty `People`.

        Raises:
            PoseZooError: A picture, box, camera or number that cannot be used.
        """
        _check_arguments(fov, tta, max_people, up, camera)
        several = _is_several(image)
        pictures = list(image) if several else [image]
        given = _per_picture(boxes, len(pictures), several, "boxes")
        cameras = _per_picture_camera(camera, len(pictures), several)
        found: list[People] = []
        for part in self._groups(pictures):
            opened = [_open(pictures[at], f"picture {at}" if several else "the picture") for at in part]
            requests = self._requests(opened, [given[at] for at in part], [cameras[at] for at in part], fov)
            found += self._people(requests, tta, max_people, up)
        return found if several else found[0]

    def _groups(self, pictures: Sequence[Any]) -> Iterator[range]:
        """Pictures that are held in memory together: as many as `memory_mb` has room for, at 6 MB each."""
        together = max(1, self.memory_mb // 6)
        for start in range(0, len(pictures), together):
            yield range(start, min(start + together, len(pictures)))

    def _requests(self, pictures: list[_Picture], given: list[Any], cameras: list[Any], fov: float) -> list[_Request]:
        blind = [at for at, boxes in enumerate(given) if boxes is None]
        detected = dict(zip(blind, self.detector([pictures[at].pixels for at in blind]), strict=True)) if blind else {}
        requests = []
        for at, picture in enumerate(pictures):
            camera = _camera(cameras[at], picture, fov)
            if at in detected:
                boxes, scores = detected[at].boxes, detected[at].scores
            else:
                boxes, scores = _given_boxes(given[at], picture)
            given_box = at not in detected or isinstance(self.detector, WholeImage)
            requests.append(_Request(picture, camera, cameras[at] is not None, boxes, scores, given_box))
        return requests

    def _people(self, requests: list[_Request], tta: int, max_people: int | None, up: Sequence[float]) -> list[People]:
        """Run all boxes of all pictures together, then sort out who they are."""
        poses = self._estimate(requests, tta, up)
        counts = np.cumsum([0] + [len(request.boxes) for request in requests])
        people = []
        for request, start, end in zip(requests, counts[:-1], counts[1:], strict=True):
            rows = slice(int(start), int(end))
            spread = None if poses.spread is None else poses.spread[rows]
            one = _Poses(poses.joints3d[rows], poses.scores[rows], spread, poses.root_depth_source)
            people.append(replace(self._sorted_out(request, one, max_people), up=_direction(up)))
        return people

    def _sorted_out(self, request: _Request, poses: _Poses, max_people: int | None) -> People:
        joints2d = project_joints(poses.joints3d, request.camera)
        known = np.isfinite(joints2d).all(-1)
        people = People(
            joints3d=poses.joints3d,
            joints2d=joints2d,
            scores=np.where(known, poses.scores, 0).astype(np.float32),
            boxes=request.boxes,
            box_scores=request.box_scores,
            skeleton=self.skeleton,
            camera=request.camera,
            size=request.picture.size,
            calibrated=request.calibrated,
            root_depth_source=poses.root_depth_source,
            image=request.picture.kept,
        )
        if request.given:
            return _cut(people, max_people)
        kept = plausible(people.joints3d, joints2d, people.boxes, self.skeleton, poses.spread)
        people, implausible = people[kept], int((~kept).sum())
        kept = without_duplicates(people.joints3d, people.box_scores)
        people, duplicates = people[kept], int((~kept).sum())
        counts = {"implausible": implausible, "duplicate": duplicates}
        return _cut(replace(people, suppressed={key: n for key, n in counts.items() if n}), max_people)

    # ----------------------------------------------------------------------------------------------- the network

    def _estimate(self, requests: list[_Request], tta: int, up: Sequence[float]) -> _Poses:
        """Poses of all boxes of all pictures, averaged over the views, in their cameras' frames."""
        picture = [at for at, request in enumerate(requests) for _ in request.boxes]
        joints = len(self.skeleton)
        if not picture:
            return _Poses(np.zeros((0, joints, 3), np.float32), np.zeros((0, joints), np.float32), None, "")
        cameras = _stacked([requests[at].camera for at in picture])
        boxes = torch.from_numpy(np.concatenate([request.boxes for request in requests]))
        rolls, zooms, flips = views(tta)
        at = torch.arange(len(picture)).repeat_interleave(tta)
        repeat = len(picture)
        shape = {"roll": rolls.repeat(repeat), "zoom": zooms.repeat(repeat), "flip": flips.repeat(repeat)}
        crops = crop_boxes(cameras[at], _widened(boxes, self._box_factor)[at], self.image_size, self.crop, up, **shape)
        images = [request.picture.pixels for request in requests]
        whole = [picture[int(row)] for row in at]
        points, scores, source = [], [], ""
        for start in range(0, len(at), size := self._chunk(len(at))):
            part = slice(start, start + size)
            prediction = self._forward(warp_crops(images, crops[part], whole[part]), crops[part], boxes[at[part]])
            points.append(crops[part].to_source(prediction.joints3d))
            scores.append(prediction.scores)
            source = prediction.root_depth_source
        return self._averaged(torch.cat(points), torch.cat(scores), crops.flipped, tta, source)

    def _averaged(self, points: Tensor, scores: Tensor, flipped: Tensor, tta: int, source: str) -> _Poses:
        """Mean of the views in 3D, once the mirrored ones have their left and right back."""
        points = torch.where(flipped[:, None, None], self.skeleton.flip(points), points)
        scores = torch.where(flipped[:, None], self.skeleton.flip(scores, -1), scores)
        points, scores = points.unflatten(0, (-1, tta)), scores.unflatten(0, (-1, tta))
        mean = points.mean(1)
        spread = None
        if tta > 1:
            spread = (points - mean[:, None]).square().sum(-1).mean(1).sqrt().numpy()
        return _Poses(mean.numpy(), scores.mean(1).numpy(), spread, source)

    def _forward(self, pixels: Pixels, crops: CropCamera, boxes: Tensor) -> Prediction:
        batch = inference_batch(pixels, crops, boxes, len(self.skeleton), len(self.skeleton.parts))
        prediction: Prediction = self.model.predict_step(to_device(batch, self.device), 0)
        return prediction

    def _chunk(self, count: int) -> int:
        """How many of `count` crops may go through the network together."""
        if count <= _ALWAYS_TOGETHER:
            return count
        if self._crop_bytes is None:
            self._crop_bytes = self._measure()
        return int(max(1, self.memory_mb * 2**20 // self._crop_bytes))

    @torch.inference_mode()
    def _measure(self) -> float:
        """Bytes that one crop needs in the network, from the largest layer of a pass with one black crop."""
        largest = 0

        def look(module: Any, inputs: Any, outputs: Any) -> None:
            nonlocal largest
            tensors = [t for t in (*inputs, outputs) if isinstance(t, Tensor)]
            largest = max(largest, sum(t.numel() * t.element_size() for t in tensors))

        hooks = [m.register_forward_hook(look) for m in self.model.modules() if not list(m.children())]
        try:
            camera = Camera.from_field_of_view(FOV_PHOTOGRAPH, self.image_size, self.image_size)
            box = torch.tensor([[0.0, 0.0, self.image_size, self.image_size]])
            crops = crop_boxes(_stacked([camera]), box, self.image_size, self.crop)
            self._forward(np.zeros((1, self.image_size, self.image_size, 3), np.uint8), crops, box)
        finally:
            for hook in hooks:
                hook.remove()
        return max(1.0, float(largest)) * _ACTIVATION_FACTOR


def views(tta: int) -> tuple[Tensor, Tensor, Tensor]:
    """(roll in degrees, zoom, mirrored) of each view of test-time augmentation, [tta].

    One view is the plain crop, two are it and its mirror image. More are turned from -12 to 12 degrees and zoomed from
    0.9 to 1.1, every second one mirrored; of an odd number, the middle one is the plain crop.
    """
    if tta == 1:
        return torch.zeros(1), torch.ones(1), torch.zeros(1, dtype=torch.bool)
    flip = (torch.arange(tta) - tta // 2) % 2 == 1
    if tta == 2:
        return torch.zeros(2), torch.ones(2), flip
    steps = torch.linspace(-1, 1, tta)
    # Every second ring of views about the middle zooms the other way, so that zoom does not hide behind roll.
    ring = (torch.arange(tta) - (tta - 1) / 2).abs().floor()
    return steps * _MOST_ROLL, 1 + steps * (1 - 2 * (ring % 2)) * _MOST_ZOOM, flip


def inference_batch(pixels: Pixels, crops: CropCamera, boxes: Tensor, joints: int, parts: int) -> Batch:
    """A `Batch` without labels from crops uint8 [N, S, S, 3]."""
    count, source = len(pixels), crops.source
    blank = {
        "joints3d": torch.zeros(count, joints, 3),
        "joints2d": torch.zeros(count, joints, 2),
        "valid3d": torch.zeros(count, joints, dtype=torch.bool),
        "valid2d": torch.zeros(count, joints, dtype=torch.bool),
        "depth_order": torch.zeros(count, parts, dtype=torch.int8),
        "valid_order": torch.zeros(count, parts, dtype=torch.bool),
        "has_camera": torch.zeros(count, dtype=torch.bool),
        **{name: torch.zeros(count, dtype=torch.int64) for name in IDENTITIES},
    }
    batch = {
        "image": torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(),
        "intrinsics": crops.intrinsics,
        "rotation": crops.rotation,
        "crop_to_image": crops.crop_to_image,
        "source_intrinsics": source.intrinsics,
        "source_distortion": source.distortion,
        "distortion_model": source.distortion_model,
        "box": boxes,
    }
    return cast(Batch, blank | batch)


# ------------------------------------------------------------------------------------------------------ arguments


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        raise PoseZooError(
            f"the device '{device}' cannot be used here ({str(error).splitlines()[0][:100]}): leave it out, or say cpu."
        ) from error
    return found


def _cpu(device: str | torch.device | None) -> torch.device:
    """The only device that OpenVINO is used on."""
    if device is not None and str(device).partition(":")[0] != "cpu":
        raise PoseZooError(f"the runtime openvino is for the CPU, not for '{device}': leave out one of the two.")
    return torch.device("cpu")


def _set_root_depth(model: Any, root_depth: float | str | None) -> None:
    """Choose where a 2.5D method takes the distance from; the true one is not for pictures."""
    if not hasattr(model, "root_depth"):
        if root_depth is not None:
            raise PoseZooError(
                f"root_depth is for methods that cannot find the distance themselves; {type(model).__name__} can: "
                "leave it out."
            )
        return
    if root_depth is None and model.root_depth == "truth":
        _warn("these weights took the root depth from the labels in training: here it comes from bone lengths.")
        root_depth = "bone_length"
    if root_depth == "truth":
        raise PoseZooError("root_depth 'truth' needs labels: choose bone_length, rootnet or a number in mm.")
    if root_depth is not None:
        from posezoo.models.volumetric import parse_root_depth

        model.root_depth = parse_root_depth(root_depth, model.rootnet_path)


def _warn(sentence: str) -> None:
    warnings.warn(sentence, UserWarning, stacklevel=4)


def _check_arguments(fov: float, tta: int, max_people: int | None, up: Sequence[float], camera: Any) -> None:
    if not 0 < fov < 180:
        raise PoseZooError(f"the field of view must lie between 0 and 180 degrees, got {fov}.")
    if isinstance(tta, bool) or int(tta) != tta or tta < 1:
        raise PoseZooError(f"tta is the number of views of each person, at least 1, got {tta}.")
    if max_people is not None and max_people < 1:
        raise PoseZooError(f"max_people must be at least 1, got {max_people}: leave it out to keep everybody.")
    if len(up) != 3 or not np.isfinite(up).all() or not np.linalg.norm(up) > 0:
        raise PoseZooError(f"up is a direction in the camera's frame, such as (0, -1, 0), got {tuple(up)}.")
    if camera is not None and fov != FOV_PHOTOGRAPH:
        raise PoseZooError("give a camera or a field of view (fov), not both: the camera already says it.")


def _direction(up: Sequence[float]) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in up)
    return x, y, z


def _is_several(image: Any) -> bool:
    """Whether an argument is a number of pictures."""
    return isinstance(image, list | tuple) or (isinstance(image, np.ndarray | Tensor) and image.ndim == 4)


def _per_picture(values: Any, count: int, several: bool, name: str) -> list[Any]:
    if values is None:
        return [None] * count
    if not several:
        return [values]
    if not isinstance(values, list | tuple) or len(values) != count:
        got = f"{len(values)}" if hasattr(values, "__len__") else type(values).__name__
        raise PoseZooError(f"for a list of {count} pictures, {name} must be a list of {count} entries, got {got}.")
    return list(values)


def _per_picture_camera(camera: Any, count: int, several: bool) -> list[Any]:
    """A list holds one camera for each picture; anything else is the camera of all."""
    if several and isinstance(camera, list | tuple):
        return _per_picture(camera, count, several, "camera")
    if isinstance(camera, Camera) and camera.intrinsics.ndim == 3:
        if len(camera.intrinsics) != count:
            raise PoseZooError(f"there are {count} pictures but {len(camera.intrinsics)} cameras in the batch.")
        return [camera[at] for at in range(count)]
    return [camera] * count


def _camera(given: Any, picture: _Picture, fov: float) -> Camera:
    """The camera of a picture: the given one if it can belong to a picture of this size, else a guess."""
    if given is None:
        return Camera.from_field_of_view(fov, *picture.size)
    if isinstance(given, Camera):
        camera = given.to("cpu", torch.float32)
    else:
        try:
            camera = Camera.create(np.asarray(given, np.float64))
        except (ValueError, TypeError) as error:
            raise PoseZooError(f"the camera of {picture.name} must be a Camera or intrinsics 3x3: {error}") from error
    if camera.intrinsics.ndim != 2:
        raise PoseZooError(f"the camera of {picture.name} is a batch: give a list of cameras, one for each picture.")
    check_camera(camera, picture.size, picture.name)
    return camera


def check_camera(camera: Camera, size: tuple[int, int], name: str) -> None:
    """Refuse intrinsics that cannot belong to a picture of `size` (width, height); warn of those that hardly can.

    A principal point off the middle, or outside, is what cut-out pictures have. The middle of another size, or of the
    same picture lying on its side, is a mistake.

    Raises:
        PoseZooError: No focal length, or the principal point is outside the picture and no cut-out explains it.
    """
    k = camera.intrinsics.double().numpy()
    if not (np.isfinite(k).all() and abs(np.linalg.det(k[:2, :2])) > 1e-6 and np.array_equal(k[2], [0, 0, 1])):
        raise PoseZooError(
            f"the camera of {name} has the intrinsics {k.tolist()}: they must be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]."
        )
    (cx, cy), (width, height) = k[:2, 2], size
    what = f"{name} has {width} x {height} px, but its camera's principal point is ({cx:.0f}, {cy:.0f})"
    ratios, turned = np.array([2 * cx / width, 2 * cy / height]), np.array([2 * cx / height, 2 * cy / width])
    if np.abs(ratios - 1).max() > _FURTHEST:
        raise PoseZooError(f"{what}, far outside it: these intrinsics belong to another picture.")
    if np.abs(turned - 1).max() < _MIDDLE and np.abs(ratios - 1).max() > _OFF:
        raise PoseZooError(
            f"{what}, the middle of {height} x {width} px: turn the intrinsics as the picture was turned."
        )
    if abs(ratios[0] - ratios[1]) < _MIDDLE * ratios.mean() and abs(ratios.mean() - 1) > _OFF:
        sentence = f"{what}, the middle of {2 * cx:.0f} x {2 * cy:.0f} px: scale the intrinsics with the picture."
        if ratios.mean() > 2:
            raise PoseZooError(sentence)
        _warn(sentence)


def _given_boxes(given: Any, picture: _Picture) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    try:
        array = np.asarray(given.cpu() if isinstance(given, Tensor) else given, np.float32)
    except (TypeError, ValueError) as error:
        raise PoseZooError(f"the boxes of {picture.name} must be rows of left, top, width, height.") from error
    if array.size == 0:
        return np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
    array = array[None] if array.ndim == 1 else array
    if array.ndim != 2 or array.shape[1] not in (4, 5):
        raise PoseZooError(
            f"the boxes of {picture.name} must be [N, 4] (left, top, width, height) or [N, 5] with scores, got shape "
            f"{list(array.shape)}."
        )
    for row, box in enumerate(array):
        check_box(box[:4].tolist(), picture.size, f"box {row} of {picture.name}")
    scores = array[:, 4] if array.shape[1] == 5 else np.ones(len(array), np.float32)
    return np.ascontiguousarray(array[:, :4]), np.ascontiguousarray(scores)


def _cut(people: People, most: int | None) -> People:
    if most is None or len(people) <= most:
        return people
    suppressed = people.suppressed | {"max_people": len(people) - most}
    return replace(people[_best(people.box_scores, most)], suppressed=suppressed)


def _best(scores: NDArray[np.float32], most: int) -> NDArray[np.intp]:
    """Rows of the highest scores, in the order they had."""
    return np.sort(np.argsort(-scores, kind="stable")[:most])


# -------------------------------------------------------------------------------------------------------- geometry


def _stacked(cameras: Sequence[Camera]) -> Camera:
    """Cameras as one batch."""
    return Camera(
        torch.stack([camera.intrinsics for camera in cameras]),
        torch.stack([camera.distortion for camera in cameras]),
        torch.stack([camera.distortion_model for camera in cameras]),
        torch.stack([camera.rotation for camera in cameras]),
        torch.stack([camera.translation for camera in cameras]),
    )


def _widened(boxes: Tensor, factor: float) -> Tensor:
    """Squares around the boxes with `factor` times their longer side; the boxes themselves for 1."""
    if factor == 1.0:
        return boxes
    side = boxes[:, 2:].amax(1, keepdim=True) * factor
    centre = boxes[:, :2] + boxes[:, 2:] / 2
    return torch.cat([centre - side / 2, side, side], 1)


# -------------------------------------------------------------------------------------------------------- pictures


def _open(image: Any, name: str) -> _Picture:
    """Any kind of picture as uint8 RGB [H, W, 3], upright."""
    kept: Pixels | Path
    if isinstance(image, str | os.PathLike):
        path = Path(image).expanduser()
        pixels, kept, name = read_image(path), path, str(path)
    else:
        pixels = kept = as_pixels(image, name)
    height, width = pixels.shape[:2]
    if min(height, width) < SMALLEST_SIDE:
        raise PoseZooError(f"{name} has {width} x {height} px: too little to show a person.")
    return _Picture(pixels, name, kept)


def as_pixels(image: Any, name: str = "the picture") -> Pixels:
    """uint8 RGB [H, W, 3] of an array, a tensor [C, H, W] or a PIL image (turned upright by its EXIF orientation).

    Grey becomes RGB, transparency is dropped, 16 bits are cut to the upper 8, floats are taken as 0..1.

    Raises:
        PoseZooError: Something else.
    """
    if hasattr(image, "getexif"):
        return _from_pil(image)
    if isinstance(image, Tensor):
        image = image.detach().cpu()
        image = (image.movedim(0, -1) if image.ndim == 3 and image.shape[0] in (1, 3, 4) else image).numpy()
    if not isinstance(image, np.ndarray):
        raise PoseZooError(f"{name} is a {type(image).__name__}: give an array, a path, or a PIL image.")
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[-1] not in (1, 2, 3, 4) or image.size == 0:
        raise PoseZooError(f"{name} has the shape {list(image.shape)}: it must be [height, width, 3], RGB.")
    colours = image[..., : 1 if image.shape[-1] <= 2 else 3]
    return np.ascontiguousarray(np.broadcast_to(_bytes(colours, name), (*image.shape[:2], 3)))


def _bytes(colours: NDArray[Any], name: str) -> Pixels:
    if colours.dtype == np.uint8:
        return colours
    if colours.dtype == np.uint16:
        return (colours >> 8).astype(np.uint8)
    if np.issubdtype(colours.dtype, np.floating):
        if not (np.isfinite(colours).all() and colours.min() >= 0 and colours.max() <= 1):
            raise PoseZooError(f"{name} holds floats beyond 0..1: divide by 255, or give uint8.")
        return np.round(colours * 255).astype(np.uint8)
    raise PoseZooError(f"{name} has pixels of type {colours.dtype}: give uint8, uint16, or floats in 0..1.")


def _from_pil(image: Any) -> Pixels:
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16"):
        return as_pixels(np.asarray(upright))
    if upright.mode in ("LA", "RGBA", "PA"):  # without blending: the colours as stored, as for files
        return as_pixels(np.asarray(upright.convert("RGBA")))
    return np.ascontiguousarray(np.asarray(upright.convert("RGB")))
