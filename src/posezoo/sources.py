"""What `posezoo infer` reads: pictures, folders, videos, a webcam; and the record that makes long videos resumable."""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import has_magic
from pathlib import Path
from typing import Any, Literal

import cv2

from posezoo.data.pictures import find_pictures
from posezoo.errors import PoseZooError
from posezoo.people import People, frame_values, no_people, people_from_frame
from posezoo.viz.video import SUFFIXES as VIDEO_SUFFIXES
from posezoo.viz.video import Frame

Kind = Literal["picture", "video", "webcam"]


@dataclass(frozen=True)
class Source:
    """One thing to find people in.

    Attributes:
        kind: What it is.
        path: The file; for a webcam its number.
        name: What boxes and cameras files call it: the name relative to its folder.
        stem: Of the files written for it; no two sources share one.
    """

    kind: Kind
    path: Path
    name: str
    stem: str


def find_sources(words: Sequence[str]) -> list[Source]:
    """Pictures and videos of files, folders and patterns, and webcams by number, in the order given.

    Raises:
        PoseZooError: A word that stands for nothing.
    """
    found: list[tuple[Kind, Path, str]] = []
    for word in words:
        path = Path(word).expanduser()
        if word.isdigit() and not path.exists():
            found.append(("webcam", Path(word), word))
        elif path.suffix.lower() in VIDEO_SUFFIXES and not has_magic(word):
            found.append(("video", path, path.name))
        else:
            videos = _videos(path)
            found += [("video", video, video.name) for video in videos]
            try:
                found += [("picture", file, name) for name, file in find_pictures(path).items()]
            except PoseZooError as error:
                if not videos:
                    raise PoseZooError(_reworded(error, path)) from error
    return [Source(kind, path, name, stem) for (kind, path, name), stem in zip(found, _stems(found), strict=True)]


def _videos(path: Path) -> list[Path]:
    if path.is_dir():
        files: Iterator[Path] = path.iterdir()
    elif has_magic(str(path)):
        files = Path(path.anchor or ".").glob(str(path.relative_to(path.anchor) if path.anchor else path))
    else:
        return []
    return sorted(f for f in files if f.suffix.lower() in VIDEO_SUFFIXES and not f.name.startswith("."))


def _reworded(error: PoseZooError, path: Path) -> str:
    if not path.exists() and not has_magic(str(path)):
        return f"there is no file or folder {path}: give pictures, videos, folders, or the number of a webcam."
    return f"{error} Videos may end in {', '.join(VIDEO_SUFFIXES)}." if path.is_dir() else str(error)


def _stems(found: Sequence[tuple[Kind, Path, str]]) -> list[str]:
    """Names of output files: the source's own where it is the only one of its stem, else longer ones."""
    short = [f"webcam{path}" if kind == "webcam" else Path(name).with_suffix("").as_posix().replace("/", "_")
             for kind, path, name in found]  # fmt: skip
    longer = [stem if short.count(stem) == 1 else name.replace("/", "_").replace(".", "_")
              for stem, (_, _, name) in zip(short, found, strict=True)]  # fmt: skip
    return [stem if longer.count(stem) == 1 else f"{stem}_{at}" for at, stem in enumerate(longer)]


class Webcam:
    """Frames of a webcam, until it is unplugged, `seconds` are over, or Ctrl-C.

    Args:
        index: Number of the camera.
        seconds: How long to look; None for ever.

    Raises:
        PoseZooError: There is no such camera.
    """

    def __init__(self, index: int, seconds: float | None = None) -> None:
        self.index, self.seconds = index, seconds
        self._capture = cv2.VideoCapture(index)
        if not self._capture.isOpened():
            raise PoseZooError(f"there is no webcam {index}, or another program uses it: try 0, or close that program.")
        self.rate = float(self._capture.get(cv2.CAP_PROP_FPS) or 25)

    def frames(self) -> Iterator[Frame]:
        """The newest frame, whenever one is asked for; times are those of its arrival."""
        start, number = time.monotonic(), 0
        try:
            while True:
                good, pixels = self._capture.read()
                passed = time.monotonic() - start
                if not good or (self.seconds is not None and passed > self.seconds):
                    return
                yield Frame(number, passed, cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
                number += 1
        finally:
            self._capture.release()


class VideoRecord:
    """Poses of a video as they are found, one line a frame: a run that was stopped goes on where it stopped.

    The lines hold what the network said of each frame alone. Identities and smoothing are computed from all of them
    when the video is complete, so a resumed run gives what an uninterrupted one gives.

    Args:
        path: The record.
        video: The file that is worked on.
        settings: Everything that changes poses; a record made with other settings, or of another file, is begun anew.
        restart: Begin anew in any case.
    """

    def __init__(self, path: Path, video: Path, settings: dict[str, Any], restart: bool = False) -> None:
        self.path = path
        stat = video.stat()
        text = json.dumps([str(video.resolve()), stat.st_size, stat.st_mtime_ns, settings], sort_keys=True)
        self._key = hashlib.sha256(text.encode()).hexdigest()
        self._lines = [] if restart else self._readable()
        if not self._lines:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"key": self._key}) + "\n", encoding="utf-8")

    def _readable(self) -> list[dict[str, Any]]:
        """The frames of a record of ours; a last line that was cut short is removed from the file."""
        if not self.path.is_file():
            return []
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        try:
            head, *lines = [json.loads(line) for line in whole.splitlines()]
        except ValueError:
            return []
        if not isinstance(head, dict) or head.get("key") != self._key:
            return []
        if len(whole) < len(content):
            os.truncate(self.path, len(whole))
        return lines

    @property
    def next_frame(self) -> int:
        """Number of the first frame that is not in the record."""
        return int(self._lines[-1]["frame"]) + 1 if self._lines else 0

    def __len__(self) -> int:
        return len(self._lines)

    def append(self, frames: Sequence[People]) -> None:
        """Add frames; they are on disk when this returns."""
        lines = [_with_facts(people) for people in frames]
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        self._lines += lines

    def people(self, like: People) -> list[People]:
        """All frames; what they share is taken from `like`."""
        source = next((line["root_depth_source"] for line in self._lines if line["root_depth_source"]), "")
        size = tuple(self._lines[0]["size"]) if self._lines else like.size
        shared = no_people(
            like.skeleton, like.camera, size, calibrated=like.calibrated, root_depth_source=source, up=like.up
        )
        return [people_from_frame(line, shared) for line in self._lines]

    def remove(self) -> None:
        """The video is done."""
        self.path.unlink(missing_ok=True)


def _with_facts(people: People) -> dict[str, Any]:
    return frame_values(people) | {"root_depth_source": people.root_depth_source, "size": list(people.size)}
