"""Image files, decoded no finer than their user needs.

Most of what a crop of a large frame costs is decoding pixels that the crop then averages away. A JPEG can be decoded at
1/2, 1/4 or 1/8 of its size for less, and better filtered than by skipping pixels.
"""

import errno
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from posezoo.data.jpeg_tiles import find_tiles, segments, top_part
from posezoo.errors import PoseZooError

Pixels = NDArray[np.uint8]

JPEG_REDUCTIONS = (1, 2, 4, 8)  # those that libjpeg-turbo is fast at; 1/8 steps between them cost more than whole
_MOST_ROWS = 0xFFFF  # of a JPEG
_LEFT_OVER = "extraneous bytes before marker 0xd9"  # 0xd9 ends an image
_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # trouble that another file would have, too
_EXIF, _ORIENTATION = b"Exif\x00\x00", 0x0112


class ImageError(PoseZooError):
    """An image that cannot be read, or that does not show its person: what `on_bad_image` is about.

    Datasets of your own raise it in `read` (and `read_labels`), as `read_image` does.
    """


class SourceImage:
    """Pixels that cover a rectangle of a source image, here those in memory; subclasses decode theirs when asked.

    Attributes:
        size: (width, height) of the whole source image, px.
        corner: Upper left corner of the rectangle, px; (0, 0) for the corner of the source image, which lies half a
            pixel beside the centre of its first pixel.
        step: Source px per stored px along x and y. Stored pixel i is centred on `corner + (i + 0.5) * step - 0.5`.
        reductions: What `decode` can divide the stored size by.
    """

    reductions: tuple[int, ...] = (1,)

    def __init__(
        self,
        pixels: Pixels,
        size: tuple[int, int] | None = None,
        corner: tuple[float, float] = (0.0, 0.0),
        step: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        self._pixels: Pixels | None = pixels
        self.size = size or (pixels.shape[1], pixels.shape[0])
        self.corner, self.step = corner, step

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, 3) of the source image, as of an array."""
        return self.size[1], self.size[0], 3

    def decode(self, reduction: int = 1) -> Pixels:
        """The stored pixels, RGB [ceil(H / reduction), ceil(W / reduction), 3]; pixel i covers `reduction` of them.

        Raises:
            ImageError: The file is damaged.
            ValueError: `reduction` is not among `reductions`.
        """
        if reduction not in self.reductions:
            raise ValueError(f"this image can be reduced by {self.reductions}, not by {reduction}")
        assert self._pixels is not None
        return self._pixels

    def decode_around(
        self, low: NDArray[np.float64], high: NDArray[np.float64], reduction: int = 1
    ) -> tuple[Pixels, tuple[int, int]]:
        """At least those of `decode`'s pixels that lie in a rectangle, and the (x, y) of the first.

        Args:
            low: Corner (x, y) of the rectangle, in the pixels of that reduction.
            high: The opposite corner.
            reduction: As for `decode`, which has the errors, too.
        """
        return self.decode(reduction), (0, 0)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """The stored pixels, whole."""
        return np.array(self.decode(), dtype=dtype, copy=copy)


class ImageFile(SourceImage):
    """An image file whose header has been read: its pixels are decoded when a crop knows how fine it needs them.

    Pixels are as `read_image` returns them, upright. JPEGs can be reduced; those that a camera has turned (EXIF) or
    that are in the colours of a printer, and all other formats, are decoded whole.

    Args:
        path: The file.
        size, corner, step: Of a file that holds a part of a source image: see `SourceImage`.

    Raises:
        ImageError: The file is missing or is no image.
    """

    def __init__(
        self,
        path: Path,
        size: tuple[int, int] | None = None,
        corner: tuple[float, float] = (0.0, 0.0),
        step: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        self.path, self.corner, self.step = path, corner, step
        self._pixels, self._decoded_by, self._whole = None, 1, False
        self._content = _content(path)
        stored = jpeg_size(self._content)
        if stored is not None:
            self.reductions = JPEG_REDUCTIONS
        elif size is None:  # the header of other formats would be read by their decoders only
            stored = self.decode().shape[1::-1]
        self.size = size or stored or (0, 0)

    def decode(self, reduction: int = 1) -> Pixels:
        """See `SourceImage.decode`; the last result is kept for the other people of the picture."""
        if reduction not in self.reductions:
            return super().decode(reduction)
        if self._pixels is None or self._decoded_by != reduction or not self._whole:
            self._pixels, self._decoded_by, self._whole = self._decode(reduction), reduction, True
        return self._pixels

    def decode_around(
        self, low: NDArray[np.float64], high: NDArray[np.float64], reduction: int = 1
    ) -> tuple[Pixels, tuple[int, int]]:
        """See `SourceImage.decode_around`; no more is decoded than the tiles or the rows that there is something in."""
        if self._pixels is None and reduction in self.reductions:
            tiles = find_tiles(self._content)
            if tiles is not None:
                content, (x, y) = tiles.part((low * reduction).tolist(), (high * reduction).tolist())
                try:
                    return _decode_jpeg(content, reduction), (x // reduction, y // reduction)
                except ValueError:
                    pass  # a damaged file, of which `decode` knows more to say
            self._pixels, self._decoded_by = _decode_top(self._content, float(high[1]), reduction), reduction
        if self._pixels is not None and self._decoded_by == reduction and high[1] <= len(self._pixels):
            return self._pixels, (0, 0)
        return self.decode(reduction), (0, 0)

    def _decode(self, reduction: int) -> Pixels:
        if self.reductions == JPEG_REDUCTIONS:
            try:
                return _decode_jpeg(self._content, reduction)
            except ValueError:
                pass  # what OpenCV still reads (stray bytes between segments) is not damaged
            whole = _decode_whole(self._content, self.path)
            # By exact averages, as far as a JPEG's own blocks go, so that a pixel lies where it would in a sound file.
            return whole if reduction == 1 else area_shrink(whole, reduction)
        return _decode_whole(self._content, self.path)


def open_image(path: Path) -> ImageFile:
    """An image file for `Sample.image`; looks like an array of [H, W, 3], but is decoded when it is cropped.

    Raises:
        ImageError: The file is missing or is no image. Damage further inside is found when it is decoded.
    """
    return ImageFile(path)


def read_image(path: Path) -> Pixels:
    """Read an image file as uint8 RGB [H, W, 3].

    Raises:
        ImageError: The file is missing, or is not an image that OpenCV can read to its end.
    """
    return ImageFile(path).decode()


def as_source(image: Pixels | SourceImage) -> SourceImage:
    """An array as a `SourceImage`."""
    return image if isinstance(image, SourceImage) else SourceImage(image)


def encode_jpeg(pixels: Pixels, quality: int) -> bytes:
    """A JPEG of RGB pixels, colours at half resolution as in nearly all sources."""
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, colorsubsampling="420"))


def area_shrink(pixels: Pixels, factor: int) -> Pixels:
    """Shrink by an integer factor by exact area averaging; a ragged rim is padded by its own edge."""
    height, width = pixels.shape[:2]
    pad_y, pad_x = -height % factor, -width % factor
    if pad_y or pad_x:
        pixels = np.asarray(cv2.copyMakeBorder(pixels, 0, pad_y, 0, pad_x, cv2.BORDER_REPLICATE), np.uint8)
    size = (pixels.shape[1] // factor, pixels.shape[0] // factor)
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise ImageError(f"No image at {path}; check the path or --data.root.") from None
    except OSError as error:
        if error.errno in _MACHINE:
            raise PoseZooError(f"{path} cannot be read now ({error}): lower --data.num_workers.") from error
        raise ImageError(f"{path} cannot be read ({error}); check its permissions, or replace it.") from error


def jpeg_size(content: bytes) -> tuple[int, int] | None:
    """(width, height) of a JPEG that need not be turned, in grey or usual colours; None for everything else."""
    if content[:2] != b"\xff\xd8" or _orientation(content) != 1:
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
    except ValueError:
        return None
    return (width, height) if colours in ("YCbCr", "RGB", "Gray") else None


def _decode_jpeg(content: bytes, reduction: int) -> Pixels:
    """Raises ValueError for anything unusual, a missing end included."""
    height, width, _, _ = simplejpeg.decode_jpeg_header(content)
    least = -(-height // reduction), -(-width // reduction)
    pixels = np.asarray(simplejpeg.decode_jpeg(content, "RGB", min_height=least[0], min_width=least[1]), np.uint8)
    if pixels.shape[:2] != least:  # of a few pixels, several reductions have the same size
        raise ValueError("another reduction")
    return pixels


def _decode_top(content: bytes, rows: float, reduction: int) -> Pixels | None:
    """At least the first `rows` rows of a JPEG so reduced; None where all of it must be decoded, or it is damaged.

    libjpeg tells its first complaint only. When that is of what is left over before the end marker, all of the rows
    were sound; they lie in the buffer by then.
    """
    part = top_part(content, math.ceil(min(max(0, rows * reduction), _MOST_ROWS)))
    if part is None:
        return None
    height, width, _, _ = simplejpeg.decode_jpeg_header(part)
    pixels = np.empty((-(-height // reduction), -(-width // reduction), 3), np.uint8)
    try:
        simplejpeg.decode_jpeg(part, "RGB", min_height=pixels.shape[0], min_width=pixels.shape[1], buffer=pixels)
    except ValueError as error:
        return pixels if str(error).endswith(_LEFT_OVER) else None
    return None


def _decode_whole(content: bytes, path: Path) -> Pixels:
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
    except cv2.error as error:
        if getattr(error, "code", 0) == cv2.Error.StsNoMem:
            raise PoseZooError(f"There is not enough memory for {path}: lower --data.num_workers.") from error
        raise ImageError(f"{path} cannot be read ({error}); check its permissions, or replace it.") from error
    if pixels is None or _ends_early(content):
        raise ImageError(f"{path} is not a readable image (empty or damaged); replace or remove it.")
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def _ends_early(content: bytes) -> bool:
    """Whether a JPEG lacks its end: OpenCV 4 makes the missing part grey without a word, OpenCV 5 refuses.

    The end marker cannot occur within the compressed pixels; thumbnails, which have their own, lie before these.
    """
    return content[:2] == b"\xff\xd8" and content.rfind(b"\xff\xd9", segments(content)[1]) < 0


def _orientation(content: bytes) -> int:
    """How a camera says that a JPEG is to be turned, 1 for not at all; 0 where it says something unreadable."""
    for marker, place in segments(content)[0]:
        block = content[place + 2 : place + int.from_bytes(content[place : place + 2], "big")]
        if marker == 0xE1 and block.startswith(_EXIF):
            tiff = block[len(_EXIF) :]
            order = "little" if tiff[:2] == b"II" else "big"
            start = int.from_bytes(tiff[4:8], order)  # type: ignore[arg-type]
            count = int.from_bytes(tiff[start : start + 2], order)  # type: ignore[arg-type]
            for entry in range(start + 2, min(start + 2 + 12 * count, len(tiff)), 12):
                if int.from_bytes(tiff[entry : entry + 2], order) == _ORIENTATION:  # type: ignore[arg-type]
                    return int.from_bytes(tiff[entry + 8 : entry + 10], order)  # type: ignore[arg-type]
    return 1
