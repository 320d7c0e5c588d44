"""Reading and writing video with PyAV: exact timestamps, phones held sideways, and files that break off."""

import secrets
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posezoo.errors import PoseZooError
from posezoo.viz.draw2d import Image

SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".gif")
_CLOCK = 90_000  # ticks per second of what is written; divides every usual frame rate
_CODECS = ("libx264", "h264", "mpeg4")


@dataclass(frozen=True)
class Frame:
    """One picture of a video.

    Attributes:
        number: From 0.
        time: s from the first frame.
        image: uint8 [H, W, 3] RGB, upright.
    """

    number: int
    time: float
    image: NDArray[np.uint8]


class VideoReader:
    """Frames of a video file in order, with their times.

    Args:
        path: The file.

    Attributes:
        rate: Frames per second, on average; 25 where the file does not say.
        length: Number of frames as the file says; an estimate, 0 where it says nothing.

    Raises:
        PoseZooError: It is not a video that can be read, or has no pictures.
    """

    def __init__(self, path: Path) -> None:
        av = _av()
        if not path.is_file():
            raise PoseZooError(f"there is no video at {path}: check the path.")
        self.path = path
        try:
            self._container = av.open(str(path))
        except (av.error.FFmpegError, OSError) as error:
            raise PoseZooError(f"{path} is not a readable video (empty or damaged): replace or remove it.") from error
        if not self._container.streams.video:
            what = "sound but no pictures" if self._container.streams.audio else "neither pictures nor sound"
            self._container.close()
            raise PoseZooError(f"{path} has {what}: give another video.")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        self.rate = float(self._stream.average_rate or self._stream.guessed_rate or 25)
        duration = self._container.duration
        self.length = self._stream.frames or (round(duration / 1e6 * self.rate) if duration else 0)

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()

    def frames(self, skip: int = 0, every: int = 1) -> Iterator[Frame]:
        """The frames whose number is at least `skip` and a multiple of `every`; the others are not made into pictures.

        A file that breaks off ends where it breaks off, with a warning.

        Raises:
            PoseZooError: There is not a single frame.
        """
        number, first = 0, None
        for decoded in self._decoded():
            time = decoded.time if decoded.time is not None else number / self.rate
            first = time if first is None else first
            if number >= skip and number % every == 0:
                yield Frame(number, max(0.0, time - first), _upright(decoded))
            number += 1
        if number == 0:
            raise PoseZooError(f"{self.path} is a video without frames: replace or remove it.")

    def _decoded(self) -> Iterator[Any]:
        av = _av()
        count = 0
        try:
            for decoded in self._container.decode(self._stream):
                count += 1
                yield decoded
        except av.error.FFmpegError as error:
            if count:  # without a frame it is not a broken video, but none
                print(
                    f"posezoo: warning: {self.path} breaks off after frame {count} ({error.strerror}).", file=sys.stderr
                )


def _upright(decoded: Any) -> NDArray[np.uint8]:
    """RGB pixels, turned as the file says that they are to be shown."""
    image = decoded.to_ndarray(format="rgb24")
    turns = round(getattr(decoded, "rotation", 0) / 90) % 4  # counterclockwise
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


class VideoWriter:
    """Writes frames with their times to an H.264 file (MPEG-4 where PyAV lacks it), which appears when it is complete.

    Use it as a context manager: on an error nothing is left.

    Args:
        path: The file, .mp4.
        rate: Frames per second, for players; times are kept as given.
    """

    def __init__(self, path: Path, rate: float) -> None:
        self.path, self._rate = path, Fraction(max(rate, 1.0)).limit_denominator(1001)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._part = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
        # Absolute: FFmpeg takes what stands before a colon for a protocol.
        self._container = _av().open(str(self._part.absolute()), "w")
        self._stream: Any = None
        self._last = -1

    def __enter__(self) -> "VideoWriter":
        return self

    def write(self, image: Image, time: float) -> None:
        """Append a frame uint8 [H, W, 3] RGB; an odd last row or column is cut off, as the codec wants."""
        height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
        if self._stream is None:
            self._stream = self._open(width, height)
        if (height, width) != (self._stream.height, self._stream.width):
            raise ValueError(f"all frames of {self.path} must have one size.")
        frame = _av().VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), format="rgb24")
        self._last = max(self._last + 1, round(time * _CLOCK))
        frame.pts, frame.time_base = self._last, Fraction(1, _CLOCK)
        self._container.mux(self._stream.encode(frame))

    def _open(self, width: int, height: int) -> Any:
        av = _av()
        codec = next(name for name in _CODECS if name in av.codec.codecs_available)
        options = {"crf": "20", "preset": "veryfast"} if codec == "libx264" else {}
        stream = self._container.add_stream(codec, rate=self._rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, _CLOCK)
        if not options:
            stream.bit_rate = 8_000_000
        return stream

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._stream is not None:
                self._container.mux(self._stream.encode(None))
            self._container.close()
            if kind is None and self._stream is not None:
                self._part.replace(self.path)
        finally:
            self._part.unlink(missing_ok=True)


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise PoseZooError("videos need PyAV: type `pip install av`.") from error
    return av
