"""Other backgrounds, clothes and chairs for the frames of MPI-INF-3DHP, which was recorded in a green room.

The release's masks are bright where the frame is to be kept and dark where it may be replaced: of `FGmasks` the red
channel is the green room (dark: background), green the upper and blue the lower body's clothes; of `ChairMasks` red is
the chair. Clothes lose their colour and take on half of a texture, chairs half of a picture, as in the release's tools.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from posezoo.data.annotated import CameraPeople
from posezoo.data.images import ImageError, SourceImage, open_image
from posezoo.data.pictures import pictures_below
from posezoo.errors import PoseZooError

Pixels = NDArray[np.uint8]
Weights = NDArray[np.float32]

MASKS = ("FGmasks", "ChairMasks")

_DOMAIN = 0x65EE  # keeps these draws apart from the augmentation's
_SOFTNESS = 2.0  # px, standard deviation of the blur of masks; the release's tools have the same
_REACH = 1.3  # what is farther from the person than this times its box is background, whatever the mask says
_ZOOM = (1.2, 1.5)  # of a background beyond covering the frame (MeTRAbs)
_GREY = (0.299, 0.587, 0.114)


@dataclass
class GreenScreen:
    """What training frames of MPI-INF-3DHP are changed to.

    Attributes:
        backgrounds: Folder of pictures, its subfolders too; null leaves the studio.
        textures: Folder of pictures for clothes and chairs; null leaves them.
        background: Probability of another background (MeTRAbs: 0.7).
        clothing: Probability of other clothes, where a recording has masks of them; and of another chair.
    """

    backgrounds: str | None = None
    textures: str | None = None
    background: float = 0.7
    clothing: float = 0.5

    def __post_init__(self) -> None:
        for name in ("background", "clothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise PoseZooError(
                    f"--data.green_screen.{name} is a probability, between 0 and 1, got {getattr(self, name)}."
                )
        if self.backgrounds is None and self.textures is None:
            raise PoseZooError("--data.green_screen needs a folder of pictures: set backgrounds, textures, or both.")


@dataclass(frozen=True)
class Change:
    """What one frame is changed to; a path of None leaves a part as it is.

    Attributes:
        background, upper, lower, chair: Picture files.
        zoom: Of the background, beyond covering the frame.
        place: Which part of the zoomed background, 0 to 1 along x and y.
    """

    background: Path | None = None
    upper: Path | None = None
    lower: Path | None = None
    chair: Path | None = None
    zoom: float = 1.0
    place: tuple[float, float] = (0.5, 0.5)


class Screens:
    """Draws changes; equal (seed, draw, index) give equal ones.

    Args:
        settings: Folders and probabilities.
        seed: Of the DataModule.

    Raises:
        PoseZooError: A folder has no pictures.
    """

    def __init__(self, settings: GreenScreen, seed: int = 0) -> None:
        self.settings, self.seed = settings, seed
        self.backgrounds = pictures_below(settings.backgrounds, "--data.green_screen.backgrounds")
        self.textures = pictures_below(settings.textures, "--data.green_screen.textures")

    def draw(self, index: int, draw: int, masks: Any = (True, True, True)) -> Change | None:
        """The change of one sample in one epoch; None to leave it alone.

        Args:
            index: Of the sample.
            draw: Epoch.
            masks: Whether background, upper and lower body can be replaced.
        """
        rng = np.random.default_rng((_DOMAIN, self.seed, draw, index))
        behind, dressed = rng.random(2)
        pick = [int(value * 2**31) for value in rng.random(4)]  # always as many, whatever is chosen
        zoom, place = float(rng.uniform(*_ZOOM)), tuple(float(value) for value in rng.random(2))
        background = behind < self.settings.background and bool(masks[0]) and bool(self.backgrounds)
        clothing = dressed < self.settings.clothing and bool(self.textures)
        if not (background or clothing):
            return None
        texture = [self.textures[value % len(self.textures)] if clothing else None for value in pick[1:]]
        return Change(
            background=self.backgrounds[pick[0] % len(self.backgrounds)] if background else None,
            upper=texture[0] if masks[1] else None,
            lower=texture[1] if masks[2] else None,
            chair=texture[2],
            zoom=zoom,
            place=(place[0], place[1]),
        )


class ScreenedImage(SourceImage):
    """A frame that is changed when it is decoded, as finely as it is decoded.

    Args:
        frame: The frame.
        foreground: Its frame of `FGmasks`, of the same size.
        chair: Its frame of `ChairMasks`.
        change: What to change.
        box: Box ltwh around the person, px; far from it everything is background.

    Raises:
        ImageError: A mask has another size than the frame.
    """

    def __init__(
        self, frame: SourceImage, foreground: SourceImage, chair: SourceImage, change: Change, box: Any
    ) -> None:
        for mask in (foreground, chair):
            if mask.size != frame.size:
                name = getattr(mask, "path", "A mask")
                raise ImageError(
                    f"{name} is {mask.size[0]} x {mask.size[1]} px, but its frame {frame.size[0]} x {frame.size[1]} px."
                )
        self._pixels, self.size, self.corner, self.step = None, frame.size, frame.corner, frame.step
        self.frame, self.masks, self.change, self.box = frame, (foreground, chair), change, np.asarray(box, float)
        shared = set(frame.reductions) & set(foreground.reductions) & set(chair.reductions)
        self.reductions = tuple(sorted(shared))

    def decode(self, reduction: int = 1) -> Pixels:
        """See `SourceImage.decode`."""
        if reduction not in self.reductions:
            raise ValueError(f"this image can be reduced by {self.reductions}, not by {reduction}")
        frame = self.frame.decode(reduction).astype(np.float32)
        foreground, chair = (soft_mask(mask.decode(reduction), reduction) for mask in self.masks)
        dressed = dress(frame, foreground, chair[..., 0], self.change)
        if self.change.background is not None:
            keep = person_weights(foreground, chair, self.box / reduction)
            behind = background(self.change.background, frame.shape[1::-1], self.change.zoom, self.change.place)
            dressed = blend(dressed, behind, keep)
        return np.clip(np.rint(dressed), 0, 255).astype(np.uint8)


def soft_mask(mask: Pixels, reduction: int = 1) -> Weights:
    """A mask as weights 0 to 1 with soft edges."""
    return np.asarray(cv2.GaussianBlur(mask.astype(np.float32) / 255, (0, 0), _SOFTNESS / reduction), np.float32)


def person_weights(foreground: Weights, chair: Weights, box: Any) -> Weights:
    """How much of each pixel is the person or the chair, [H, W], 0 to 1.

    Args:
        foreground: [H, W, 3] of `FGmasks`.
        chair: [H, W, 3] of `ChairMasks`.
        box: ltwh of the person, px of the mask.
    """
    left, top, width, height = np.asarray(box, float)
    low = np.array([left + width / 2, top + height / 2]) - _REACH * np.array([width, height]) / 2
    high = low + _REACH * np.array([width, height])
    inside = np.zeros(foreground.shape[:2], np.float32)
    rows, columns = (slice(max(0, int(low[at])), max(0, int(np.ceil(high[at])))) for at in (1, 0))
    inside[rows, columns] = 1
    return np.asarray(np.maximum(foreground[..., 0] * inside, 1 - chair[..., 0]), np.float32)


def dress(frame: Weights, foreground: Weights, chair: Weights, change: Change) -> Weights:
    """Clothes and chair with the textures of a change; float [H, W, 3], 0 to 255."""
    size = (frame.shape[1], frame.shape[0])
    for path, mask in ((change.upper, foreground[..., 1]), (change.lower, foreground[..., 2])):
        if path is not None:
            grey = np.asarray(np.repeat((frame @ np.array(_GREY, np.float32))[..., None], 3, -1), np.float32)
            frame = blend(frame, blend(grey, picture(path, size), _half(mask)), mask)
    if change.chair is not None:
        frame = blend(frame, picture(change.chair, size), _half(chair))
    return frame


def _half(weights: Weights) -> Weights:
    return np.asarray(0.5 + weights / 2, np.float32)


def blend(above: Weights, below: Weights, weights: Weights) -> Weights:
    """`above` where the weights [H, W] are 1, `below` where they are 0; both [H, W, 3]."""
    return np.asarray(below + (above - below) * weights[..., None], np.float32)


@lru_cache(maxsize=8)
def picture(path: Path, size: tuple[int, int]) -> Weights:
    """A picture stretched to a size; float [H, W, 3], 0 to 255."""
    return np.asarray(cv2.resize(_decoded(path, size), size, interpolation=cv2.INTER_AREA), np.float32)


def background(path: Path, size: tuple[int, int], zoom: float, place: tuple[float, float]) -> Weights:
    """The part of a picture that covers a frame of (width, height); float [H, W, 3], 0 to 255.

    Args:
        path: The picture.
        size: Of the frame, px.
        zoom: 1 to just cover the frame along one side.
        place: 0 to 1 along x and y, which part.
    """
    wanted = (int(np.ceil(size[0] * zoom)), int(np.ceil(size[1] * zoom)))
    pixels = _decoded(path, wanted)
    height, width = pixels.shape[:2]
    factor = max(wanted[0] / width, wanted[1] / height)
    scaled = np.array([width, height]) * factor
    corner = (scaled - np.array(size)) * np.array(place)
    # Pixel centres of the frame in the picture: u -> (u + corner + 0.5) / factor - 0.5.
    shift = (corner + 0.5) / factor - 0.5
    matrix = np.array([[1 / factor, 0, shift[0]], [0, 1 / factor, shift[1]]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(pixels, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE), np.float32)


def _decoded(path: Path, size: tuple[int, int]) -> Pixels:
    """A picture, decoded not much finer than to cover a size."""
    image = open_image(path)
    enough = min(image.size[0] / size[0], image.size[1] / size[1])
    return image.decode(max((r for r in image.reductions if r <= max(enough, 1)), default=1))


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ScreenedPeople(CameraPeople):
    """Training frames in front of other backgrounds and in other clothes, drawn anew in every epoch.

    Attributes:
        screens: Where these come from.
        masks: Which of the release's masks a view has: background, upper and lower body, bool [V, 3].
    """

    screens: Screens
    masks: NDArray[np.bool_]

    def read(self, index: int, draw: int = 0) -> Any:
        """One person; the image is changed when it is decoded."""
        sample = super().read(index, draw)
        image = sample.image
        assert isinstance(image, SourceImage)
        change = self.screens.draw(index, draw, self.masks[self.view[index]])
        if change is not None:
            masks = [open_image(mask_path(self.path(index), kind)) for kind in MASKS]
            sample.image = ScreenedImage(image, masks[0], masks[1], change, self.boxes[index])
        return sample


def mask_path(image: Path, kind: str) -> Path:
    """The frame of FGmasks or ChairMasks that belongs to a frame of the release's training videos."""
    parts = list(image.parts)
    for folder in ("imageSequence", "imageFrames"):
        if folder in parts:
            at = len(parts) - 1 - parts[::-1].index(folder)
            return Path(*parts[:at], kind, *parts[at + 1 :])
    raise PoseZooError(
        f"{image} has no masks beside it: other backgrounds need the release's own layout with FGmasks and ChairMasks."
    )


# S1 Seq2 and S4 Seq2 have bad masks of background and lower body (the release's tools).
_BAD_BACKGROUND = frozenset({("S1", "Seq2"), ("S4", "Seq2")})
_UPPER_BODY = frozenset({(f"S{n}", "Seq2") for n in range(1, 7)} | {("S7", "Seq1"), ("S8", "Seq1")})


def augmentable(subject: str, seq: str) -> tuple[bool, bool, bool]:
    """Which usable masks a training sequence has: background, upper body, lower body."""
    background, upper = (subject, seq) not in _BAD_BACKGROUND, (subject, seq) in _UPPER_BODY
    return background, upper, upper and background


def screened(people: CameraPeople, screens: Screens) -> ScreenedPeople:
    """The same frames with other backgrounds and clothes.

    Raises:
        PoseZooError: The layout has no masks, or those of the first frames are missing.
    """
    masks = np.array([augmentable(*title.split()[:2]) for title in people.sequences], bool)
    for number in range(len(people.sequences)):
        first = int(np.flatnonzero(people.view == number)[0])
        for kind in MASKS:
            path = mask_path(people.path(first), kind)
            if not path.is_file():
                raise PoseZooError(
                    f"No mask at {path}: extract the release's {kind} videos beside imageSequence, or leave out "
                    "--data.green_screen."
                )
    return ScreenedPeople(**vars(people), screens=screens, masks=masks)
