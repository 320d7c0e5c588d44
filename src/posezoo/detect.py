"""Where people are in a picture: the `PersonDetector` protocol, torchvision's detectors, and "one box: everything".

A detector takes RGB pictures and returns boxes (left, top, width, height; px) with scores. Write your own by following
`PersonDetector`, or give boxes to the pipeline: then none is needed.
"""

import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.error import URLError

import numpy as np
import torch
from numpy.typing import NDArray

from posezoo.errors import PoseZooError, did_you_mean
from posezoo.fetch import offline

DEFAULT = "fasterrcnn_mobilenet_v3_large_320_fpn"
# Enum of each model's COCO weights; "person" is label 1 in all of them.
MODELS = {
    DEFAULT: "FasterRCNN_MobileNet_V3_Large_320_FPN_Weights",
    "fasterrcnn_mobilenet_v3_large_fpn": "FasterRCNN_MobileNet_V3_Large_FPN_Weights",
    "fasterrcnn_resnet50_fpn_v2": "FasterRCNN_ResNet50_FPN_V2_Weights",
    "retinanet_resnet50_fpn_v2": "RetinaNet_ResNet50_FPN_V2_Weights",
    "ssdlite320_mobilenet_v3_large": "SSDLite320_MobileNet_V3_Large_Weights",
}
CHOICES = ("auto", "torchvision", *(f"torchvision:{name}" for name in MODELS), "none")
_PERSON = 1
_TOGETHER = 8  # pictures that are on the device as floats at once
_PATIENCE = 20.0  # s without a byte before a download is given up


@dataclass(frozen=True)
class Detections:
    """People found in one picture, by falling score.

    Attributes:
        boxes: float32 [N, 4] left, top, width, height; px.
        scores: float32 [N] in 0..1.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.boxes)


class PersonDetector(Protocol):
    """Finds people; any callable of this form works as `PosePipeline(detector=...)`."""

    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        """The people of each picture (uint8 [H, W, 3] RGB, of any sizes), best first."""


class WholeImage:
    """No detector: the whole picture is one box with score 1."""

    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        """One box for each picture."""
        return [
            Detections(np.array([[0, 0, image.shape[1], image.shape[0]]], np.float32), np.ones(1, np.float32))
            for image in images
        ]


class TorchvisionDetector:
    """A detector of torchvision, trained on COCO.

    Args:
        model: Its network, which returns boxes, labels and scores; `torchvision_detector` makes one with weights.
        threshold: Least score of a person.
        device: Where it runs.
    """

    def __init__(self, model: torch.nn.Module, threshold: float = 0.5, device: torch.device | str = "cpu") -> None:
        if not 0 <= threshold <= 1:
            raise PoseZooError(f"the detector's threshold is a score between 0 and 1, got {threshold}.")
        self.device = torch.device(device)
        self.model, self.threshold = model.to(self.device).eval(), threshold

    @torch.inference_mode()
    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        """The people of each picture with a score of at least `threshold`."""
        found: list[Detections] = []
        for start in range(0, len(images), _TOGETHER):
            part = [torch.from_numpy(np.ascontiguousarray(image)) for image in images[start : start + _TOGETHER]]
            answers = self.model([pixels.to(self.device).permute(2, 0, 1).float() / 255 for pixels in part])
            found += [self._people(answer) for answer in answers]
        return found

    def _people(self, found: dict[str, Any]) -> Detections:
        boxes, scores = found["boxes"].float().cpu().numpy(), found["scores"].float().cpu().numpy()
        kept = (found["labels"].cpu().numpy() == _PERSON) & (scores >= self.threshold)
        # A box without area, which rounding can make, shows nobody.
        kept &= (boxes[:, 2:] > boxes[:, :2]).all(1)
        order = np.flatnonzero(kept)[np.argsort(-scores[kept], kind="stable")]
        corners = boxes[order]
        return Detections(np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1), scores[order])


def make_detector(
    which: str | PersonDetector = "auto", threshold: float = 0.5, device: torch.device | str = "cpu"
) -> PersonDetector:
    """A detector by name, or the one given.

    Args:
        which: "torchvision" or "torchvision:MODEL"; "none" (the whole picture is one box); "auto": torchvision where
            its weights are on disk or can be fetched, else "none" with a warning of one line on stderr.
        threshold: Least score of a person.
        device: Where it runs.

    Raises:
        PoseZooError: An unknown name, or weights of "torchvision" that are neither on disk nor to be had.
    """
    if not isinstance(which, str):
        return which
    if which == "none":
        return WholeImage()
    if which == "auto":
        try:
            return torchvision_detector(DEFAULT, threshold, device)
        except DetectorUnavailable as error:
            print(f"posezoo: warning: every picture is taken as one person's box: {error}", file=sys.stderr)
            return WholeImage()
    family, _, name = which.partition(":")
    if family != "torchvision" or (name and name not in MODELS):
        raise PoseZooError(f"unknown detector '{which}': {did_you_mean(which, CHOICES)}")
    return torchvision_detector(name or DEFAULT, threshold, device)


class DetectorUnavailable(PoseZooError):
    """A detector's weights are neither on disk nor can they be fetched."""


def torchvision_detector(
    name: str = DEFAULT, threshold: float = 0.5, device: torch.device | str = "cpu"
) -> TorchvisionDetector:
    """A detector of torchvision with its COCO weights, from torch hub's cache or downloaded into it.

    The switches of `posezoo.fetch.offline` forbid the download.

    Raises:
        DetectorUnavailable: The weights cannot be had; the message says where to put them.
    """
    from torchvision.models import detection

    weights = getattr(detection, MODELS[name]).DEFAULT
    path = hub_cache() / Path(weights.url).name
    if not path.is_file():
        _fetch(weights.url, path)
    model = getattr(detection, name)(weights=None, weights_backbone=None)
    try:
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch raises half a dozen kinds for damaged files
        raise DetectorUnavailable(f"{path} does not hold the weights of {name}: delete it and try again.") from error
    return TorchvisionDetector(model, threshold, device)


def hub_cache() -> Path:
    """The folder where torch hub keeps downloaded weights."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def _fetch(url: str, path: Path) -> None:
    """Download once, checked against the checksum in the file's name."""
    advice = f"put {url} into {path.parent} yourself, give boxes, or use --detector none"
    switch = offline()
    if switch is not None:
        raise DetectorUnavailable(f"the detector's weights are not on disk, and {switch} is set: {advice}.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _impatient():
            torch.hub.download_url_to_file(url, str(path), path.stem.rpartition("-")[2], progress=False)
    except (URLError, OSError, RuntimeError) as error:
        reason = getattr(error, "reason", None) or error
        raise DetectorUnavailable(f"the detector's weights cannot be fetched ({reason}): {advice}.") from error


@contextmanager
def _impatient() -> Iterator[None]:
    """Torch hub has no timeout of its own, and a firewall that swallows packets would hang it."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
