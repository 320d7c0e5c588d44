"""Frames of Human3.6M's and MPI-INF-3DHP's videos: those that the labels use, as images for the readers to find."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from posezoo.data.annotated import CameraPeople
from posezoo.data.base import PoseDataset, single_threaded
from posezoo.data.files import write_whole
from posezoo.data.green_screen import MASKS, mask_path
from posezoo.data.human36m import Human36MPeople
from posezoo.data.images import encode_jpeg
from posezoo.data.layouts.mpi_inf_3dhp_official import FilmedPeople, video_of
from posezoo.errors import PoseZooError

FRAMES = "frames"  # folder below the root, while it is being prepared
_QUALITY = 98  # these are compressed once more; a few percent of a video's own loss

Track = Callable[[Iterable[Any], str, int], Iterable[Any]]
Wanted = dict[Path, dict[int, Path]]  # video -> number of a frame, from 0 -> file to write


class VideoError(PoseZooError):
    """A video that cannot be read."""


def untracked(items: Iterable[Any], name: str, count: int) -> Iterable[Any]:
    """No progress bar."""
    return items


def with_frames(people: PoseDataset, raw: Path, out: Path, workers: int = 0, track: Track = untracked) -> PoseDataset:
    """The same people with images taken out of videos, where there are some.

    Human3.6M's are `raw/S1/Videos/Directions 1.54138969.mp4` ..., MPI-INF-3DHP's `raw/S1/Seq1/imageSequence/
    video_0.avi` .... Images that `raw` has are left alone, and so are frames of an earlier run.

    Args:
        people: Those of Human36M in the official layout or of MPIINF3DHP; others are returned as they are.
        raw: Folder of the original files.
        out: Folder to write `frames` into.
        workers: Processes, one video each.
        track: Wraps the videos, for a progress bar.

    Raises:
        PoseZooError: PyAV is missing, a video is damaged, or `out` cannot be written.
    """
    frames = out / FRAMES
    if isinstance(people, FilmedPeople):
        filmed = replace(people, frames=frames)
        extract_all(_wanted_frames(filmed, np.flatnonzero(people.filmed)), frames, workers, track)
        return filmed
    if isinstance(people, Human36MPeople) and any(raw.glob("S*/Videos")):
        if (people.folder / people.name(0)).is_file():
            return people
        extract_all(_wanted_clips(people, raw, frames), frames, workers, track)
        return replace(people, folder=frames)
    return people


def with_masks(
    people: CameraPeople, rows: Sequence[int], out: Path, workers: int = 0, track: Track = untracked
) -> CameraPeople:
    """The same training frames of MPI-INF-3DHP, some of them with both of their masks as images.

    Frames that are there with their masks are left alone; those that lack something are taken out of videos, masks too.

    Args:
        people: Training frames in the release's layout.
        rows: Which of them.
        out: Folder to write `frames` into.
        workers: Processes, one video each.
        track: Wraps the videos, for a progress bar.

    Raises:
        PoseZooError: As for `with_frames`; a video is missing, too.
    """
    frames = out / FRAMES
    filmed = people.filmed.copy() if isinstance(people, FilmedPeople) else np.zeros(len(people), np.bool_)
    for row in rows:
        if not filmed[row]:
            filmed[row] = not all(mask_path(people.path(row), kind).is_file() for kind in MASKS)
    chosen = np.asarray(rows)[filmed[np.asarray(rows)]]
    if not len(chosen):
        return people
    facts = {name: value for name, value in vars(people).items() if name not in ("filmed", "frames")}
    framed = FilmedPeople(**facts, filmed=filmed, frames=frames)
    extract_all(_wanted_frames(framed, chosen, MASKS), frames, workers, track)
    return framed


def _wanted_frames(people: FilmedPeople, rows: Iterable[int], masks: Sequence[str] = ()) -> Wanted:
    """What has to be taken out of MPI-INF-3DHP's videos: frames of some rows, and their masks."""
    wanted: Wanted = {}
    for row in map(int, rows):
        number, image = int(people.frame[row]) - people.first_frame, people.path(row)
        files = {"imageSequence": image} | {kind: mask_path(image, kind) for kind in masks}
        for kind, file in files.items():
            numbers = wanted.setdefault(video_of(people, row, kind), {})
            if not file.is_file():
                numbers[number] = file
    return wanted


def _wanted_clips(people: Human36MPeople, raw: Path, frames: Path) -> Wanted:
    """What has to be taken out of Human3.6M's videos."""
    wanted: Wanted = {}
    for row in range(len(people)):
        subject, serial = people.cameras[people.view[row]]
        scene = people.scenes[people.scene[row]].replace("_", " ")
        numbers = wanted.setdefault(raw / subject / "Videos" / f"{scene}.{serial}.mp4", {})
        file = frames / people.name(row)
        if not file.is_file():
            numbers[int(people.frame[row]) - 1] = file
    return wanted


def extract_all(wanted: Wanted, frames: Path, workers: int = 0, track: Track = untracked) -> None:
    """Take frames out of videos, several videos at a time.

    Args:
        wanted: See `Wanted`.
        frames: Folder of all files, for messages.
        workers: Processes.
        track: Wraps the videos, for a progress bar.

    Raises:
        PoseZooError: PyAV is missing, a video is missing or damaged, or a file cannot be written.
    """
    jobs = _Videos([(video, numbers) for video, numbers in wanted.items() if numbers], frames)
    if not len(jobs):
        return
    _import_av()
    loader: DataLoader[Any] = DataLoader(
        jobs, batch_size=None, num_workers=workers, worker_init_fn=single_threaded if workers else None
    )
    failed = [text for text in track(loader, "videos", len(jobs)) if text]
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise PoseZooError(failed[0] + more)


def _import_av() -> Any:
    try:
        import av
    except ImportError as error:
        raise PoseZooError("Frames of videos need PyAV: type `pip install av`.") from error
    return av


class _Videos(Dataset[str]):
    """Number of a video -> its frames as files; "" or a sentence about what is wrong."""

    def __init__(self, jobs: list[tuple[Path, dict[int, Path]]], frames: Path) -> None:
        self.jobs, self.frames = jobs, frames

    def __len__(self) -> int:
        return len(self.jobs)

    def __getitem__(self, index: int) -> str:
        try:
            extract(*self.jobs[index])
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
        raise VideoError(f"No video at {video}: unpack its archive there.")
    count, last = 0, max(wanted)
    for count, frame in enumerate(decode(video), 1):
        path = wanted.get(count - 1)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.ascontiguousarray(frame.to_ndarray(format="rgb24"))
            write_whole(path, encode_jpeg(pixels, _QUALITY))
        if count > last:
            return
    if count == 0:
        raise VideoError(f"{video} has no frames: download its archive again.")


def decode(video: Path) -> Iterator[Any]:
    """Frames of a video in order, as PyAV has them: only those that are used need to become RGB.

    Raises:
        VideoError: It cannot be read to its end.
    """
    av = _import_av()
    try:
        with av.open(str(video)) as container:
            stream = next(iter(container.streams.video), None)
            if stream is None:
                raise VideoError(f"{video} has no frames: download its archive again.")
            stream.thread_count = 1  # videos are decoded side by side
            yield from container.decode(stream)
    except av.FFmpegError as error:
        raise VideoError(f"{video} is damaged ({error}): download its archive again.") from error
