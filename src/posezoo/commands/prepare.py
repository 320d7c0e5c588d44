"""Make the fast layout of a dataset: small JPEGs and one index, which its DataModule reads in place of the files."""

import argparse
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posezoo.errors import PoseZooError, did_you_mean

if TYPE_CHECKING:
    from posezoo.data.base import PoseDataModule

_WITHOUT = ("SyntheticPeople", "ImageFolder", "Mixed", "SearchSplit")  # made of nothing, of pictures, or of others


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `posezoo prepare` takes."""
    parser.add_argument("name", help="dataset, such as human36m or mpi_inf_3dhp (posezoo list datasets)")
    parser.add_argument(
        "--raw",
        type=Path,
        help="folder of the original files, only read; for muco3dhp also that of MPI-INF-3DHP, to compose",
    )
    parser.add_argument("--root", type=Path, help="folder to write, new or of an unfinished run")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="option of the dataset, as --data.NAME"
    )
    parser.add_argument("--image-size", type=int, default=256, help="largest crop to serve, px (default 256)")
    parser.add_argument("--box", choices=("annotation", "pelvis_2000mm"), default="annotation")
    parser.add_argument("--roll", type=float, default=20.0, help="largest roll of the augmentation, degrees")
    parser.add_argument("--zoom", type=float, nargs=2, default=(0.75, 1.25), help="its range of zoom")
    parser.add_argument("--shift", type=float, default=0.1, help="its largest shift, as a share of the longer box side")
    parser.add_argument("--quality", type=int, default=95, help="of the JPEGs (default 95)")
    parser.add_argument("--workers", type=int, help="processes (default: one for each core)")


def run(args: argparse.Namespace) -> int:
    """Prepare, and print the report."""
    for flag, folder in (("--raw", args.raw), ("--root", args.root)):
        if folder is None:
            raise PoseZooError(f"posezoo prepare needs {flag} FOLDER; type `posezoo prepare --help`.")
    if not args.raw.is_dir():
        raise PoseZooError(f"There is no folder {args.raw}: give the folder of the original files as --raw.")
    if args.workers is not None and args.workers < 0:
        raise PoseZooError(f"--workers must be 0 (this process alone) or more, got {args.workers}.")
    try:
        return _prepare(args)
    except PoseZooError as error:  # readers know their folder as the option of a training
        raise PoseZooError(re.sub(r"--data\.root\b", "--raw", str(error))) from error


def _prepare(args: argparse.Namespace) -> int:
    from posezoo.data.prepare.build import prepare
    from posezoo.data.prepare.layout import Settings

    workers = (os.cpu_count() or 1) if args.workers is None else args.workers
    if _makes_composites(args.name, args.raw):
        return _compose(args, workers)
    settings = Settings(args.image_size, args.box, args.roll, tuple(args.zoom), args.shift, args.quality)
    data = make_module(args.name, args.raw, args.set)
    report = prepare(data, args.root, settings, workers, _track)
    print("\n".join(report.lines()))
    print(f"Wrote {args.root}: type --data {type(data).__name__} --data.root {args.root}")
    return 0


def _makes_composites(name: str, raw: Path) -> bool:
    """Whether MuCo-3DHP is asked for and its parts are given, the release of MPI-INF-3DHP."""
    from posezoo.data.layouts.mpi_inf_3dhp_official import is_official

    return _plain(name) in ("muco3dhp", "muco") and is_official(raw)


def _compose(args: argparse.Namespace, workers: int) -> int:
    from posezoo.data.prepare.composites import compose_release

    print("\n".join(compose_release(args.raw, args.root, dict(map(_option, args.set)), workers, _track)))
    print(
        f"Wrote {args.root}: type --data MuCo3DHP --data.root {args.root}, or make small images of it with posezoo "
        f"prepare muco3dhp --raw {args.root} --root FOLDER"
    )
    return 0


def make_module(name: str, raw: Path, options: list[str]) -> "PoseDataModule":
    """The DataModule of the original files.

    Raises:
        PoseZooError: Unknown dataset, or an option that it does not have.
    """
    from posezoo import cli

    cli.load_plugins()
    kinds = known_datasets()
    kind = kinds.get(_plain(name))
    if kind is None:
        names = sorted({made.__name__ for made in kinds.values()})
        raise PoseZooError(f"there is no dataset '{name}' to prepare: {did_you_mean(name, names)}")
    chosen = dict(map(_option, options))
    try:
        return kind(str(raw), **chosen)
    except TypeError as error:
        raise PoseZooError(f"--set: {error}; options are those of --data {kind.__name__}.") from error


def known_datasets() -> dict[str, "type[PoseDataModule]"]:
    """What can be prepared, by the names of its class and of its file, without capitals and underscores."""
    from posezoo.data.base import PoseDataModule

    found: dict[str, type[PoseDataModule]] = {}
    queue: list[type[PoseDataModule]] = [PoseDataModule]
    while queue:
        kind = queue.pop()
        queue += kind.__subclasses__()
        if kind is not PoseDataModule and kind.people is not PoseDataModule.people and kind.__name__ not in _WITHOUT:
            names = kind.__name__, kind.__module__.rpartition(".")[2]
            found |= {_plain(name): kind for name in names}
    return found


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def _option(text: str) -> tuple[str, Any]:
    import yaml

    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise PoseZooError(f"--set takes NAME=VALUE, such as box_scale=1, got '{text}'.")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise PoseZooError(f"--set {name}: '{value}' is no value ({error}).") from error


def _track(items: Iterable[Any], name: str, count: int) -> Iterable[Any]:
    from rich.console import Console
    from rich.progress import track

    what = {"videos": "videos", "composites": "images"}.get(name, "people")
    return track(items, f"{name}, {count} {what}", total=count, console=Console(stderr=True))
