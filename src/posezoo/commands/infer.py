"""Find everybody in pictures, folders, videos or a webcam, in 3D: poses as files, and pictures to look at."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posezoo.errors import PoseZooError, did_you_mean

if TYPE_CHECKING:
    from posezoo.people import People
    from posezoo.pipeline import PosePipeline
    from posezoo.sources import Source
    from posezoo.viz.video import Frame, VideoReader

FORMATS = ("json", "npz", "csv")
_HEIGHT = 540  # px of the pictures to look at


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to read, what is known of it, how to look, what to write."""
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE", help="picture, folder, 'pattern', video, or webcam number"
    )
    parser.add_argument(
        "--weights", "--model", dest="model", help="name, folder or .ckpt (default: the bundled MeTRAbs)"
    )
    parser.add_argument("--out", type=Path, default=Path("poses"), help="folder to write to (default: poses)")
    known = parser.add_argument_group("what is known")
    known.add_argument("--boxes", type=Path, help="JSON or CSV file of boxes by picture; no detector is run")
    known.add_argument("--cameras", type=Path, help="JSON file of cameras by picture or video")
    known.add_argument(
        "--fov", type=float, default=None, help="field of view along the longer side (default: 55 degrees)"
    )
    known.add_argument("--up", type=float, nargs=3, default=(0.0, -1.0, 0.0), help="against gravity, camera frame")
    looking = parser.add_argument_group("how to look")
    looking.add_argument("--detector", default="auto", help="auto, torchvision, torchvision:MODEL or none")
    looking.add_argument("--threshold", type=float, default=0.5, help="least score of a person (default: 0.5)")
    looking.add_argument("--tta", type=int, default=1, help="views of each person to average over (default: 1)")
    looking.add_argument("--max-people", type=int, default=None, help="keep so many in each picture")
    looking.add_argument("--root-depth", default=None, help="of 2.5D methods: bone_length, rootnet or mm")
    looking.add_argument("--device", default=None, help="cpu, cuda, ... (default: a GPU where there is one)")
    looking.add_argument("--runtime", default="torch", help="torch, or openvino on the CPU (default: torch)")
    looking.add_argument(
        "--precision", default="float32", help="float32, or bfloat16, which is off by millimetres (default: float32)"
    )
    looking.add_argument("--memory-mb", type=int, default=1024, help="for the network's activations (default: 1024)")
    looking.add_argument("--batch", type=int, default=8, help="pictures that are worked on together (default: 8)")
    video = parser.add_argument_group("video")
    video.add_argument("--every", type=int, default=1, help="look at every Nth frame")
    video.add_argument("--no-smooth", action="store_true", help="identities only, poses as the network gave them")
    video.add_argument("--restart", action="store_true", help="forget what a stopped run has found")
    video.add_argument("--seconds", type=float, default=None, help="how long to look at a webcam")
    writing = parser.add_argument_group("what to write")
    writing.add_argument("--format", default="json", help="of the poses, one or more of json,npz,csv (default: json)")
    writing.add_argument("--skeleton", default=None, help="convert poses to it, for example coco17")
    writing.add_argument("--no-pictures", action="store_true", help="no overlays and 3D views")
    writing.add_argument("--html", action="store_true", help="also an interactive 3D page of each source")


def run(args: argparse.Namespace) -> int:
    """0 when every source was read, 1 when some could not be."""
    formats = _checked(args)
    from posezoo.disk import disk_errors
    from posezoo.light import import_models_to_predict

    import_models_to_predict()
    from posezoo.pipeline import default_weights, load
    from posezoo.runtimes import check_runtime
    from posezoo.sources import find_sources
    from posezoo.zoo import locate

    check_runtime(args.runtime, args.precision)  # before weights are fetched
    sources = find_sources(args.sources)
    boxes, cameras = _known(args, sources)
    weights = locate(args.model or default_weights())
    pose = load(
        weights,
        args.device,
        detector=args.detector,
        threshold=args.threshold,
        root_depth=args.root_depth,
        memory_mb=args.memory_mb,
        runtime=args.runtime,
        precision=args.precision,
    )
    job = _Job(args, formats, pose, weights, boxes, cameras)
    with disk_errors(args.out), _progress() as progress:
        job.progress = progress
        job.pictures([source for source in sources if source.kind == "picture"])
        for source in sources:
            if source.kind != "picture":
                job.moving(source)
    return job.report(len(sources))


def _checked(args: argparse.Namespace) -> list[str]:
    """The formats; raises for numbers that make no sense before anything heavy is imported."""
    formats = [word.strip().lower() for word in args.format.split(",") if word.strip()]
    for word in formats:
        if word not in FORMATS:
            raise PoseZooError(f"there is no format '{word}': {did_you_mean(word, FORMATS)}")
    for name in ("every", "batch", "memory_mb", "tta"):
        if getattr(args, name) < 1:
            raise PoseZooError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}.")
    if args.fov is not None and args.cameras is not None:
        raise PoseZooError("give --cameras or --fov, not both: cameras already say it.")
    if args.skeleton is not None:
        from posezoo.skeletons import get_skeleton

        get_skeleton(args.skeleton)
    return formats or ["json"]


def _known(args: argparse.Namespace, sources: "Sequence[Source]") -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Boxes by name (None: detect) and cameras by name."""
    from posezoo.data.pictures import match_names, read_boxes, read_cameras

    names = [source.name for source in sources]
    boxes = None
    if args.boxes is not None:
        if any(source.kind != "picture" for source in sources):
            raise PoseZooError("--boxes is for pictures: in a video people move, so leave it to the detector.")
        boxes = match_names(read_boxes(args.boxes.expanduser()), names, args.boxes)
    if args.cameras is None:
        return boxes, {}
    return boxes, dict(zip(names, read_cameras(args.cameras.expanduser(), names), strict=True))


class _Job:
    """One run of the command: its settings, and what has been done."""

    progress: Any

    def __init__(
        self,
        args: argparse.Namespace,
        formats: list[str],
        pose: "PosePipeline",
        weights: Path,
        boxes: dict[str, Any] | None,
        cameras: dict[str, Any],
    ) -> None:
        self.args, self.formats, self.boxes, self.cameras = args, formats, boxes, cameras
        self.pose, self.weights = pose, weights
        self.found, self.frames, self.failed = 0, 0, list[PoseZooError]()

    def report(self, count: int) -> int:
        """Say what was found; the only source's failure is an error of its own."""
        if len(self.failed) == count:
            raise self.failed[0] if count == 1 else PoseZooError(f"none of the {count} sources could be read.")
        pictures = "picture" if self.frames == 1 else "pictures"
        print(f"Found {self.found} poses in {self.frames} {pictures}; wrote them to {self.args.out}.")
        return 1 if self.failed else 0

    def fail(self, error: PoseZooError) -> None:
        """One source is left out; the others go on."""
        self.failed.append(error)
        print(f"posezoo: warning: left out: {error}", file=sys.stderr)

    # ------------------------------------------------------------------------------------------------- pictures

    def pictures(self, sources: "list[Source]") -> None:
        """All pictures, some at a time."""
        task = self.progress.add_task("pictures", total=len(sources)) if sources else None
        for start in range(0, len(sources), self.args.batch):
            part = sources[start : start + self.args.batch]
            self._some_pictures(part)
            self.progress.update(task, advance=len(part))

    def _some_pictures(self, sources: "list[Source]") -> None:
        from posezoo.data.pictures import read_image

        readable, images = [], []
        for source in sources:
            try:
                images.append(read_image(source.path))
                readable.append(source)
            except PoseZooError as error:
                self.fail(error)
        for source, image, people in zip(readable, images, self._look(readable, images), strict=True):
            if people is not None:
                self._write_picture(source, replace(people, image=image))

    def _look(self, sources: "list[Source]", images: list[Any]) -> "list[People | None]":
        """People of several pictures at once; where one of them is refused, of each by itself."""
        if not sources:
            return []
        boxes = None if self.boxes is None else [self.boxes.get(source.name, []) for source in sources]
        try:
            return list(self.pose(images, boxes, self._cameras(sources), **self._options()))
        except PoseZooError as error:
            if len(sources) == 1:
                self.fail(PoseZooError(f"{sources[0].path}: {error}"))
                return [None]
        return [self._look([source], [image])[0] for source, image in zip(sources, images, strict=True)]

    def _cameras(self, sources: "Sequence[Source]") -> list[Any] | None:
        return [self.cameras[source.name] for source in sources] if self.cameras else None

    def _options(self) -> dict[str, Any]:
        options = {"tta": self.args.tta, "max_people": self.args.max_people, "up": tuple(self.args.up)}
        return options if self.args.fov is None else options | {"fov": self.args.fov}

    def _write_picture(self, source: "Source", people: "People") -> None:
        from posezoo.viz.draw2d import write_picture
        from posezoo.viz.people import side_by_side

        self.found, self.frames = self.found + len(people), self.frames + 1
        if not self.args.no_pictures:
            self.args.out.mkdir(parents=True, exist_ok=True)
            write_picture(self.args.out / f"{source.stem}.png", side_by_side(people.pixels(), people, _HEIGHT))
        self._write(source, [people])

    def _write(self, source: "Source", frames: "Sequence[People]") -> None:
        """Poses and the page."""
        from posezoo.people import save_people
        from posezoo.viz.html import write_html

        converted = frames if self.args.skeleton is None else [people.to(self.args.skeleton) for people in frames]
        for suffix in self.formats:
            save_people(self.args.out / f"{source.stem}.{suffix}", converted)
        if self.args.html:
            write_html(self.args.out / f"{source.stem}.html", converted, source.name)

    # --------------------------------------------------------------------------------------------- moving pictures

    def moving(self, source: "Source") -> None:
        """A video or a webcam."""
        try:
            if source.kind == "webcam":
                self._webcam(source)
            else:
                self._video(source)
        except PoseZooError as error:
            self.fail(error)

    def _video(self, source: "Source") -> None:
        from posezoo.sources import VideoRecord
        from posezoo.viz.video import VideoReader

        with VideoReader(source.path) as reader:
            record = VideoRecord(
                self.args.out / f".{source.stem}.part.jsonl", source.path, self._settings(source), self.args.restart
            )
            if len(record):
                print(f"Going on with {source.path} after {len(record)} frames (--restart begins anew).")
            like = self._watch(source, reader, record)
        frames = self._followed(record.people(like))
        if not self.args.no_pictures:
            self._draw_video(source, frames)
        self._write(source, frames)
        record.remove()
        self.found, self.frames = self.found + sum(len(people) for people in frames), self.frames + len(frames)

    def _settings(self, source: "Source") -> dict[str, Any]:
        """Everything that changes what the network says of a frame."""
        from posezoo.people import camera_values
        from posezoo.zoo import WEIGHTS_FILE

        camera = self.cameras.get(source.name)
        names = ("fov", "up", "detector", "threshold", "tta", "max_people", "root_depth", "every")
        settings = {name: getattr(self.args, name) for name in names}
        file = self.weights / WEIGHTS_FILE if self.weights.is_dir() else self.weights
        stat = file.stat()  # a file of the same name may hold other weights by now
        return settings | {
            "weights": [str(file.resolve()), stat.st_size, stat.st_mtime_ns],
            "network": repr(self.pose),
            "camera": None if camera is None else camera_values(camera),
        }

    def _watch(self, source: "Source", reader: "VideoReader", record: Any) -> "People":
        """Run the network over the frames that the record lacks; returns people of any frame, for what all share."""
        done = record.next_frame
        task = self.progress.add_task(source.name, total=reader.length or None, completed=done)
        wanted = reader.frames(done, self.args.every)
        last: People | None = None
        while part := list(islice(wanted, self.args.batch)):
            people = self._look_at_frames(source, part)
            record.append(people)
            last = people[-1]
            self.progress.update(task, completed=part[-1].number + 1)
        return last if last is not None else self._any_frame(source)

    def _any_frame(self, source: "Source") -> "People":
        """Nobody, with the camera of a video: for a record that was complete already."""
        from posezoo.viz.video import VideoReader

        with VideoReader(source.path) as reader:
            frame = next(iter(reader.frames()))
        return self._look_at_frames(source, [frame])[0]

    def _look_at_frames(self, source: "Source", frames: "Sequence[Frame]") -> "list[People]":
        cameras = self._cameras([source] * len(frames))
        people = self.pose([frame.image for frame in frames], None, cameras, **self._options())
        return [
            replace(one, frame=frame.number, time=frame.time, image=None)
            for one, frame in zip(people, frames, strict=True)
        ]

    def _followed(self, frames: "Sequence[People]") -> "list[People]":
        from posezoo.tracking import Tracker

        tracker = Tracker(smooth=not self.args.no_smooth)
        return [tracker.update(people) for people in frames]

    def _draw_video(self, source: "Source", frames: "Sequence[People]") -> None:
        """The video with overlays beside the 3D view, seen by one camera that stands still."""
        from posezoo.viz.people import side_by_side, stage
        from posezoo.viz.video import VideoReader, VideoWriter

        people, around = {one.frame: one for one in frames}, stage(frames)
        task = self.progress.add_task(f"drawing {source.name}", total=len(frames))
        target = self.args.out / f"{source.stem}.mp4"
        with VideoReader(source.path) as reader, VideoWriter(target, reader.rate / self.args.every) as writer:
            for frame in reader.frames(every=self.args.every):
                if frame.number in people:
                    drawn = side_by_side(frame.image, people[frame.number], _HEIGHT, around, f"{frame.time:.2f} s")
                    writer.write(drawn, frame.time)
                    self.progress.update(task, advance=1)

    def _webcam(self, source: "Source") -> None:
        """As it comes, until Ctrl-C: identities, smoothing and pictures frame by frame."""
        from contextlib import ExitStack

        from posezoo.sources import Webcam
        from posezoo.tracking import Tracker
        from posezoo.viz.people import side_by_side, stage
        from posezoo.viz.video import VideoWriter

        camera, tracker, frames = Webcam(int(source.name), self.args.seconds), Tracker(not self.args.no_smooth), []
        task, around = self.progress.add_task(f"{source.name} (Ctrl-C ends)", total=None), None
        with ExitStack() as stack:
            writer = None
            if not self.args.no_pictures:
                writer = stack.enter_context(VideoWriter(self.args.out / f"{source.stem}.mp4", camera.rate))
            try:
                for frame in camera.frames():
                    people = tracker.update(self._look_at_frames(source, [frame])[0])
                    frames.append(people)
                    around = stage(frames) if around is None and len(people) else around
                    if writer is not None:
                        writer.write(side_by_side(frame.image, people, _HEIGHT, around), frame.time)
                    self.progress.update(task, completed=len(frames))
            except KeyboardInterrupt:
                print("Stopped.", file=sys.stderr)
        if not frames:
            raise PoseZooError(f"webcam {source.name} gave no picture: is it covered or unplugged?")
        self._write(source, frames)
        self.found, self.frames = self.found + sum(len(one) for one in frames), self.frames + len(frames)


@contextmanager
def _progress() -> Iterator[Any]:
    """A progress bar on stderr; silent where nobody watches."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield progress
