"""Frames of Human3.6M's videos: those that its labels use, as images where its DataModule looks for them."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from posezoo.data.base import PoseDataset, single_threaded
from posezoo.data.human36m import Human36MPeople
from posezoo.data.images import encode_jpeg
from posezoo.errors import PoseZooError

FRAMES = "frames"  # folder below the root, while it is being prepared
_QUALITY = 98  # these are compressed once more; a few percent of a video's own loss


class VideoError(PoseZooError):
    """A video that cannot be read."""


def with_frames(
    people: PoseDataset,
    raw: Path,
    out: Path,
    workers: int = 0,
    track: Callable[[Iterable[Any], str, int], Iterable[Any]] = lambda items, name, count: items,
) -> PoseDataset:
    """The same people with images taken out of `raw/S1/Videos/Directions 1.54138969.mp4` ..., where there are videos.

    Images that `raw` has are left alone, and so are frames of an earlier run.

    Args:
        people: Those of Human36M in the official layout; others are returned as they are.
        raw: Folder of the original files.
        out: Folder to write `frames` into.
        workers: Processes, one video each.
        track: Wraps the videos, for a progress bar.

    Raises:
        PoseZooError: PyAV is missing, a video is damaged, or `out` cannot be written.
    """
    if not isinstance(people, Human36MPeople) or not any(raw.glob("S*/Videos")):
        return people
    wanted = missing_frames(people, raw, out / FRAMES)
    if not wanted:
        return people
    _import_av()
    jobs = _Videos(list(wanted.items()), out / FRAMES)
    loader: DataLoader[Any] = DataLoader(
        jobs, batch_size=None, num_workers=workers, worker_init_fn=single_threaded if workers else None
    )
    failed = [text for text in track(loader, "videos", len(jobs)) if text]
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise PoseZooError(failed[0] + more)
    return replace(people, folder=out / FRAMES)


def missing_frames(people: Human36MPeople, raw: Path, frames: Path) -> dict[Path, dict[int, str]]:
    """Video -> number of a frame, from 0 -> name of its image below `frames`, for all images that are nowhere yet.

    Empty where `raw` has the images itself.
    """
    if (people.folder / people.name(0)).is_file():
        return {}
    wanted: dict[Path, dict[int, str]] = {}
    for row in range(len(people)):
        subject, serial = people.cameras[people.view[row]]
        scene = people.scenes[people.scene[row]].replace("_", " ")
        video = raw / subject / "Videos" / f"{scene}.{serial}.mp4"
        numbers = wanted.setdefault(video, {})
        if not (frames / people.name(row)).is_file():
            numbers[int(people.frame[row]) - 1] = people.name(row)
    return wanted


def _import_av() -> Any:
    try:
        import av
    except ImportError as error:
        raise PoseZooError("Frames of videos need PyAV: type `pip install 'posezoo[video]'`.") from error
    return av


class _Videos(Dataset[str]):
    """Number of a video -> its frames as files; "" or a sentence about what is wrong."""

    def __init__(self, jobs: list[tuple[Path, dict[int, str]]], frames: Path) -> None:
        self.jobs, self.frames = jobs, frames

    def __len__(self) -> int:
        return len(self.jobs)

    def __getitem__(self, index: int) -> str:
        video, wanted = self.jobs[index]
        try:
            extract(video, {number: self.frames / name for number, name in wanted.items()})
        except PoseZooError as error:
            return str(error)
        except OSError as error:
            return f"{self.frames} cannot be written ({error.strerror or error}): make room or give another --root."
        return ""


def extract(video: Path, wanted: dict[int, Path]) -> None:
    """Write frames of a video as JPEGs; each appears whole or not at all.

    Args:
        video: The file.
        wanted: Number of a frame, from 0 -> file to write. Numbers beyond the end are left out.

    Raises:
        VideoError: The video is missing or damaged, or has no frames.
    """
    if not wanted:
        return
    if not video.is_file():
        raise VideoError(f"No video at {video}: unpack the subject's Videos archive of Human3.6M there.")
    count = 0
    for count, pixels in enumerate(decode(video), 1):
        path = wanted.get(count - 1)
        if path is None:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_bytes(encode_jpeg(pixels, _QUALITY))
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        if count > max(wanted):
            return
    if count == 0:
        raise VideoError(f"{video} has no frames: download its archive of Human3.6M again.")


def decode(video: Path) -> Iterator[NDArray[np.uint8]]:
    """Frames of a video in order, RGB [H, W, 3].

    Raises:
        VideoError: It cannot be read to its end.
    """
    av = _import_av()
    try:
        with av.open(str(video)) as container:
            stream = next(iter(container.streams.video), None)
            if stream is None:
                raise VideoError(f"{video} has no frames: download its archive of Human3.6M again.")
            for frame in container.decode(stream):
                yield np.ascontiguousarray(frame.to_ndarray(format="rgb24"))
    except av.FFmpegError as error:
        raise VideoError(f"{video} is damaged ({error}): download its archive of Human3.6M again.") from error
