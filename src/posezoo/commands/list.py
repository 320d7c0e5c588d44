"""Show what posezoo has: methods, datasets, skeletons and weights."""

import argparse
from collections.abc import Callable

from posezoo.errors import PoseZooError, did_you_mean

# Class name -> one line. Written down so that the answer needs no torch; tests compare it with the classes.
METHODS = {
    "HEMlets": "heatmap triplets of relative depth, learns from depth order too (Zhou et al., ICCV 2019)",
    "IntegralPose": "volumetric 2.5D baseline with soft-argmax (Sun et al., ECCV 2018)",
    "RootNet": "where the root is, for 2.5D methods (Moon et al., ICCV 2019)",
    "PartAware": "one decoder architecture for each group of joints (Chen et al., ECCV 2020)",
    "PartAwareSearch": "the search for those architectures; writes a genotype that PartAware trains",
    "MeTRAbs": "metric-scale heatmaps, absolute pose from one crop (Sárándi et al., T-BIOM 2020)",
}
DATASETS = {
    "SyntheticPeople": "rendered people with exact labels; made on the fly, nothing to download",
    "Human36M": "indoor motion capture, 4 cameras; by request from its authors",
    "OrdinalDepth": "photographs with 2D joints and depth order (LSP and MPII of Pavlakos et al., CVPR 2018)",
    "ImageFolder": "your own pictures, for predict",
    "Mixed": "several of these with fixed counts in every batch",
    "SearchSplit": "one of these as two streams, for architecture search",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `posezoo list` takes."""
    parser.add_argument("kind", nargs="?", help=f"only one of: {', '.join(TABLES)}")


def run(args: argparse.Namespace) -> int:
    """Print every table, or the one asked for."""
    if args.kind is not None and args.kind not in TABLES:
        raise PoseZooError(f"there is no list of '{args.kind}': {did_you_mean(args.kind, TABLES)}")
    kinds = [args.kind] if args.kind else list(TABLES)
    print("\n\n".join(_format(kind, TABLES[kind]()) for kind in kinds))
    return 0


def _skeletons() -> dict[str, str]:
    from posezoo.skeletons import SKELETONS

    rows = {}
    for name, skeleton in SKELETONS.items():
        root = "no root" if skeleton.root is None else f"root {skeleton.joints[skeleton.root]}"
        alias = "" if skeleton.name == name else f"; another name of {skeleton.name}"
        rows[name] = f"{len(skeleton)} joints, {root}{alias}"
    return rows


def _weights() -> dict[str, str]:
    from posezoo.zoo import catalogue

    return {
        name: "; ".join(
            [
                f"{entry.licence}, trained on {entry.training_data}",
                *(f"{metric} {value:g}" for metric, value in entry.metrics.items()),
            ]
        )
        for name, entry in catalogue().items()
    }


TABLES: dict[str, Callable[[], dict[str, str]]] = {
    "methods": lambda: METHODS,
    "datasets": lambda: DATASETS,
    "skeletons": _skeletons,
    "weights": _weights,
}


def _format(kind: str, rows: dict[str, str]) -> str:
    width = max(map(len, rows), default=0)
    lines = [f"  {name:<{width}}  {text}" for name, text in rows.items()] or ["  none yet"]
    return "\n".join([kind.capitalize(), *lines])
