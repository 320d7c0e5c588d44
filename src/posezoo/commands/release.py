"""Make released weights of a checkpoint: stored small, with golden outputs, a model card and a catalogue entry.

Run it twice: once on the checkpoint, and, after `posezoo test --weights`, on the folder itself with --metrics.
"""

import argparse
from pathlib import Path

from posezoo.errors import PoseZooError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `posezoo release` takes."""
    parser.add_argument("source", type=Path, help="a run's .ckpt, or a release folder to renew")
    parser.add_argument("--out", type=Path, help="folder of the release; needed with a .ckpt")
    parser.add_argument("--name", help="method_backbone.data_v1")
    parser.add_argument("--licence", help="of the weights: an SPDX name")
    parser.add_argument("--data", help="what they were trained on")
    parser.add_argument("--command", help="what was typed to train them (default: as the run folder has it)")
    parser.add_argument("--recipe", help="name of the recipe")
    parser.add_argument("--trained", help="how long (default: the steps of the checkpoint)")
    parser.add_argument("--note", help="what these weights are and are not, for the top of the card")
    parser.add_argument("--limits", help="where they fail: a text, or a file with one")
    parser.add_argument("--metrics", type=Path, action="append", default=[], help="metrics.json of a test; repeatable")
    parser.add_argument("--measured-with", help="the command behind --metrics, where its folder does not tell")
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float16", help="how weights are stored")
    parser.add_argument("--catalogue", type=Path, help="a zoo.toml to put the entry into")
    parser.add_argument("--source-url", help="where users find the folder, for the entry (default: in the package)")


def run(args: argparse.Namespace) -> int:
    """Write the release and say what to do next."""
    from posezoo.release import BUNDLE_LIMIT, Facts, check_golden, entry_of, entry_toml, register, release

    if not args.source.exists():
        raise PoseZooError(f"there is no checkpoint or folder at {args.source}: check the first argument.")
    if args.out is None and not args.source.is_dir():
        raise PoseZooError("a release of a checkpoint needs a place: add --out FOLDER.")
    out = args.out or args.source
    limits = args.limits
    if limits and len(limits) < 256 and Path(limits).is_file():
        limits = Path(limits).read_text(encoding="utf-8").strip()
    facts = Facts(
        args.name,
        args.licence,
        args.data,
        args.command,
        args.recipe,
        args.trained,
        args.note,
        limits,
        args.metrics,
        args.measured_with,
    )
    entry = release(args.source, out, facts, args.dtype)
    if args.source_url:
        entry = entry_of(out, args.source_url)
    mm, px = check_golden(out)
    size = sum(file.stat().st_size for file in out.iterdir())
    print(f"{out}: {size / 2**20:.2f} MiB; golden outputs agree to {mm:.4f} mm and {px:.5f} px")
    if entry.bundled and size > BUNDLE_LIMIT:
        print(f"Larger than {BUNDLE_LIMIT / 2**20:g} MiB: too much for the package; publish it with --source-url.")
    if args.catalogue:
        register(entry, args.catalogue)
        print(f"Entry {entry.name} is in {args.catalogue}.")
    else:
        print(f"Its entry for zoo.toml (--catalogue FILE writes it there):\n\n{entry_toml(entry)}")
    if not entry.metrics:
        print(
            "No scores yet: type `posezoo test --weights "
            f"{out}`, then `posezoo release {out} --metrics runs/version_N/metrics.json`."
        )
    return 0
