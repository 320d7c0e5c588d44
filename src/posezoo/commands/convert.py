"""Make posezoo weights of the authors' released checkpoints, which stay under their authors' licence."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from posezoo.errors import PoseZooError, did_you_mean

if TYPE_CHECKING:
    from posezoo.models.base import PoseEstimator

KINDS = {
    "hemlets-official": "the .pth file of redrock303/HEMlets",
    "metrabs-official": "an unpacked folder of isarandi/metrabs (PyTorch)",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `posezoo convert` takes."""
    parser.add_argument("kind", help="; ".join(f"{name}: {what}" for name, what in KINDS.items()))
    parser.add_argument("source", type=Path, help="the authors' file or folder")
    parser.add_argument(
        "--licence", help="the authors' terms, as their repository states them; written into the result"
    )
    parser.add_argument("--out", type=Path, help="folder to write")
    parser.add_argument("--skeleton", help="MeTRAbs: skeleton to predict (default: smpl24 where the release has it)")
    parser.add_argument("--official-skeleton", help="MeTRAbs: skeleton of the release to take its joints from")
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="how weights are stored")


def run(args: argparse.Namespace) -> int:
    """Convert, and say what was made."""
    if args.kind not in KINDS:
        raise PoseZooError(f"there is no converter '{args.kind}': {did_you_mean(args.kind, KINDS)}")
    if not (args.licence or "").strip():
        raise PoseZooError(
            "these weights are under their authors' terms: name them with --licence TEXT, as their repository states "
            "them; the text is written into the result."
        )
    if args.out is None:
        raise PoseZooError("where to? Add --out FOLDER.")
    if not args.source.exists():
        raise PoseZooError(f"there is nothing at {args.source}: give {KINDS[args.kind]}.")
    if args.kind == "hemlets-official":
        if args.skeleton or args.official_skeleton:
            raise PoseZooError("the HEMlets release has one skeleton, hemlets18: leave out --skeleton.")
        from posezoo.convert.hemlets import convert_hemlets

        estimator: PoseEstimator = convert_hemlets(args.source, args.out, args.licence, args.dtype)
    else:
        from posezoo.convert.metrabs import convert_metrabs

        estimator = convert_metrabs(
            args.source, args.out, args.licence, args.skeleton, args.official_skeleton, args.dtype
        )
    print(
        f"{args.out}: {type(estimator).__name__} of {estimator.skeleton.name}, under: {args.licence.strip()}\n"
        f"To use it: posezoo infer photo.jpg --weights '{args.out}'"
    )
    return 0
