"""Rendered subjects on disk: one memory-mapped array of images that all loaders share, and labels.

A cache is rendered in a folder of its own beside the final one and renamed when it is complete, so a folder
with the right name is always a whole cache, also when two processes build it at once or one of them is
killed.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from posezoo.data.synthetic.people import Mocap
from posezoo.data.synthetic.pose import check_mocap
from posezoo.data.synthetic.sample import render_sample
from posezoo.data.synthetic.scene import PRESETS, Preset, check_request, find_preset
from posezoo.data.synthetic.streams import GENERATOR_VERSION, SyntheticDataError
from posezoo.errors import PoseZooError

_IMAGES, _LABELS = "images.npy", "labels.npz"
_PER_PERSON = ("joints3d", "joints2d", "visibility", "boxes", "pose_class", "stature")
_PER_FRAME = ("intrinsics", "rotation", "translation")
_CHUNK = 32
_STALE = 6 * 3600.0  # s; a partial folder untouched for longer belongs to a build that died

Labels = dict[str, NDArray[Any]]


class MissingCacheError(PoseZooError, FileNotFoundError):
    """There is no finished cache where one was expected."""


class DiskFullError(PoseZooError, OSError):
    """The cache would not fit."""


@dataclass(frozen=True)
class _Job:
    """What is rendered; small enough to send to workers, except for mocap, which they receive once."""

    split: str
    size: int
    preset: Preset
    seed: int


def cache_name(
    *, split: str, length: int, size: int, preset: str | Preset, seed: int = 0, mocap: Mocap | None = None
) -> str:
    """Name of a cache's folder: everything its contents depend on."""
    chosen = find_preset(preset)
    digest = hashlib.sha256(json.dumps(asdict(chosen), sort_keys=True).encode())
    if mocap is not None:
        digest.update(str(mocap.shape).encode())
        digest.update(np.ascontiguousarray(mocap, np.float32).tobytes())
    label = preset if isinstance(preset, str) else next((k for k, v in PRESETS.items() if v == chosen), "custom")
    source = "" if mocap is None else "-mocap"
    return f"v{GENERATOR_VERSION}-{label}{source}-{split}-{size}px-{length}-seed{seed}-{digest.hexdigest()[:8]}"


def build_cache(
    root: Path | str,
    *,
    split: str,
    length: int,
    size: int,
    preset: str | Preset,
    seed: int = 0,
    mocap: Mocap | None = None,
    workers: int = 1,
    progress: bool = True,
) -> Path:
    """Render samples 0..length-1 into a folder under `root`, or find them there.

    Args:
        root: Folder of caches; made when missing.
        split: train, val or test.
        length: Number of samples.
        size: Side of the frames, px.
        preset: Name in PRESETS or a Preset.
        seed: As for `render_sample`.
        mocap: As for `render_sample`.
        workers: Processes to render with; 1 renders in this one.
        progress: Show a bar on the terminal.

    Returns:
        The finished cache, for `open_cache`.

    Raises:
        SyntheticDataError: Unknown split or preset, unusable size, length or mocap.
        DiskFullError: `root` has too little room; nothing has been rendered then.
        OSError: `root` cannot be written to.
    """
    check_request(split, size)
    if length < 1:
        raise SyntheticDataError(f"length must be at least 1, got {length}.")
    if mocap is not None:
        check_mocap(mocap)
    name = cache_name(split=split, length=length, size=size, preset=preset, seed=seed, mocap=mocap)
    final = Path(root) / name
    if _is_complete(final):
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(final)
    _check_space(final.parent, length * size * size * 3)
    partial = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".partial", dir=final.parent))
    try:
        _render_into(partial, _Job(split, size, find_preset(preset), seed), length, mocap, workers, progress)
        _publish(partial, final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return final


def open_cache(path: Path | str) -> tuple[np.memmap[Any, np.dtype[np.uint8]], Labels]:
    """Open a finished cache.

    Returns:
        The images, uint8 [N,S,S,3] RGB, mapped read-only from disk, and the subjects' labels in memory: the
        fields of `SyntheticSample` without the person axis (joints3d [N,25,3] mm, boxes [N,4] ltwh px and so
        on).

    Raises:
        MissingCacheError: No finished cache at `path`.
    """
    folder = Path(path)
    if not _is_complete(folder):
        raise MissingCacheError(f"No finished cache at {folder}. Make one with build_cache(root, ...).")
    images = np.load(folder / _IMAGES, mmap_mode="r")
    with np.load(folder / _LABELS) as data:
        return images, {key: data[key] for key in data.files}


def _is_complete(folder: Path) -> bool:
    return (folder / _IMAGES).is_file() and (folder / _LABELS).is_file()


def _remove_stale(final: Path) -> None:
    """Clear away what builds that died have left; a younger folder may be another process at work."""
    for partial in final.parent.glob(f".{final.name}.*.partial"):
        try:
            age = time.time() - max(path.stat().st_mtime for path in (partial, *partial.iterdir()))
        except FileNotFoundError:  # its owner has just finished
            continue
        if age > _STALE:
            shutil.rmtree(partial, ignore_errors=True)


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed * 1.02:
        raise DiskFullError(
            f"The cache needs {needed / 1e9:.1f} GB but {folder} has {free / 1e9:.1f} GB free. "
            "Choose another folder, fewer samples or a smaller size."
        )


def _publish(partial: Path, final: Path) -> None:
    """Rename into place; when another process was faster, its (identical) cache stays."""
    try:
        partial.rename(final)
    except OSError:
        if _is_complete(final):
            return
        shutil.rmtree(final, ignore_errors=True)  # an incomplete folder of this name was not made by us
        partial.rename(final)


def _render_into(folder: Path, job: _Job, length: int, mocap: Mocap | None, workers: int, progress: bool) -> None:
    shape = (length, job.size, job.size, 3)
    images = np.lib.format.open_memmap(folder / _IMAGES, mode="w+", dtype=np.uint8, shape=shape)
    images.flush()
    del images
    starts = range(0, length, _CHUNK)
    labels: dict[int, Labels] = {}
    with _progress_bar(length, job, progress) as advance:
        for start, chunk in _chunks(folder, job, starts, length, mocap, workers):
            labels[start] = chunk
            advance(len(chunk["stature"]))
    ordered = [labels[start] for start in starts]
    columns: dict[str, Any] = {key: np.concatenate([chunk[key] for chunk in ordered]) for key in ordered[0]}
    np.savez(folder / _LABELS, **columns)


def _chunks(
    folder: Path, job: _Job, starts: range, length: int, mocap: Mocap | None, workers: int
) -> Iterator[tuple[int, Labels]]:
    """Render all chunks, in this process or in several, in whatever order they finish."""
    if workers <= 1:
        _start_worker(folder, job, length, mocap)
        yield from ((start, _render_chunk(start)) for start in starts)
        return
    with (
        _one_thread_each(),
        ProcessPoolExecutor(
            min(workers, len(starts)),
            mp_context=get_context("spawn"),
            initializer=_start_worker,
            initargs=(folder, job, length, mocap),
        ) as pool,
    ):
        futures = {pool.submit(_render_chunk, start): start for start in starts}
        try:
            yield from ((futures[future], future.result()) for future in as_completed(futures))
        except BrokenProcessPool as error:
            raise SyntheticDataError(
                "A rendering process died: put the code of your script under `if __name__ == '__main__':` (its "
                "processes import it again), or render in this process with num_workers 0."
            ) from error


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Spawned workers start with single-threaded linear algebra: theirs are 3 x n products."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


_work: tuple[Path, _Job, int, Mocap | None] | None = None  # what this worker process renders


def _start_worker(folder: Path, job: _Job, length: int, mocap: Mocap | None) -> None:
    global _work
    _work = folder, job, length, mocap


def _render_chunk(start: int) -> Labels:
    """Render samples start, start + 1, ... into the shared file and return their labels."""
    if _work is None:
        raise RuntimeError("_render_chunk needs _start_worker first.")
    folder, job, length, mocap = _work
    images = np.load(folder / _IMAGES, mmap_mode="r+")
    rows: list[Labels] = []
    for index in range(start, min(start + _CHUNK, length)):
        sample = render_sample(index, job.split, size=job.size, preset=job.preset, seed=job.seed, mocap=mocap)
        images[index] = sample.image
        subject = {key: getattr(sample, key)[0] for key in _PER_PERSON}
        rows.append(subject | {key: getattr(sample, key) for key in _PER_FRAME})
    images.flush()
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


@contextmanager
def _progress_bar(length: int, job: _Job, shown: bool) -> Iterator[Any]:
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, disable=not shown, transient=True) as bar:
        task = bar.add_task(f"Rendering {job.split} people, {job.size} px", total=length)
        yield lambda count: bar.advance(task, count)
