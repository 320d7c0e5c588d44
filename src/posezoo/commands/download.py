"""Fetch weights before they are needed, for a machine without a network say; an interrupted download goes on."""

import argparse
import shutil
from pathlib import Path

from posezoo.disk import disk_errors
from posezoo.errors import PoseZooError
from posezoo.zoo import CONFIG_FILE, WEIGHTS_FILE, cache_folder, catalogue, check_file, locate, read_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `posezoo download` takes."""
    parser.add_argument("weights", nargs="+", help="names of `posezoo list weights`, or hub ids")
    parser.add_argument("--to", type=Path, help="also copy each one to a folder of its name in here")


def run(args: argparse.Namespace) -> int:
    """Fetch each, check it, and print where it is."""
    for name in args.weights:
        folder = fetched(name)
        if args.to is not None:
            target = args.to / name.rpartition("/")[2].replace("@", "_")
            with disk_errors(target):
                shutil.copytree(folder, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))
            folder = target
        print(f"{name}: {folder}")
    return 0


def fetched(name: str) -> Path:
    """Folder of complete weights; a damaged download is made again.

    Raises:
        PoseZooError: It cannot be fetched.
    """
    folder = locate(name)
    if folder.is_file():
        raise PoseZooError(f"{name} is a file on this machine: there is nothing to download.")
    config = read_config(folder)
    try:
        check_file(folder / WEIGHTS_FILE, config)
    except PoseZooError:
        entry = catalogue().get(name)
        if entry is None or folder != cache_folder(name):
            raise
        for file in (WEIGHTS_FILE, CONFIG_FILE):
            (folder / file).unlink(missing_ok=True)
        folder = locate(name)
        check_file(folder / WEIGHTS_FILE, read_config(folder))
    return folder
