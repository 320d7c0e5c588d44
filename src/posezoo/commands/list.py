"""Show what posezoo has: methods, datasets, protocols, skeletons, weights and installed plug-ins."""

import argparse
from collections.abc import Callable
from fnmatch import fnmatchcase

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
    "COCO": "photographs with 2D joints of everybody in them (Lin et al., ECCV 2014)",
    "MPII": "photographs with 2D joints (Andriluka et al., CVPR 2014)",
    "ThreeDPW": "outdoor videos with a moving camera and SMPL joints (von Marcard et al., ECCV 2018)",
    "MPIINF3DHP": "green-screen studio and outdoor test set; by request from its authors",
    "MuCo3DHP": "composites of its people, several in an image; 3DMPPE's layout, or made of one's own frames",
    "MuPoTS3D": "twenty multi-person test sequences; test only",
    "OrdinalDepth": "photographs with 2D joints and depth order (LSP and MPII of Pavlakos et al., CVPR 2018)",
    "ImageFolder": "your own pictures, for predict",
    "Mixed": "several of these with fixed counts in every batch",
    "SearchSplit": "one of these as two streams, for architecture search",
}
PROTOCOLS = {
    "h36m_p1_pavllo": "Human3.6M S9, S11, every frame: MPJPE, mean over actions",
    "h36m_p2_pavllo": "the same: PA-MPJPE",
    "h36m_p1_semgcn": "the same on 16 joints: MPJPE",
    "h36m_p2_semgcn": "the same on 16 joints: PA-MPJPE",
    "h36m_p1_moon": "Human3.6M S11, every 64th frame: MPJPE after rigid alignment, mean over frames",
    "h36m_p1_moon_similarity": "the same: PA-MPJPE with scale",
    "h36m_p2_moon": "Human3.6M S9, S11, every 64th frame: MPJPE, mean over frames",
    "h36m_metrabs": "the same with S9 corrected: MPJPE and PA-MPJPE",
    "h36m_p1_spin": "Human3.6M S9, S11, every 5th frame, 14 joints: MPJPE and PA-MPJPE",
    "h36m_p2_spin": "the same, frontal camera",
    "hemlets_released": "Human3.6M S11 as HEMlets' release scores it, with root depth from bone lengths",
    "mpi_inf_3dhp": "MPI-INF-3DHP test set, universal skeleton: PCK, AUC, MPJPE",
    "mpi_inf_3dhp_metric": "the same on the metric skeleton",
    "mpi_inf_3dhp_posepile": "universal skeleton, the joints of MeTRAbs' later models",
    "3dpw": "3DPW challenge, all splits, 24 joints: MPJPE, PA-MPJPE, PCK50, AUC",
    "3dpw_test14": "3DPW test split, 14 joints regressed from the mesh: MPJPE, PA-MPJPE",
    "mupots": "MuPoTS-3D, everybody: relative and absolute 3DPCK, AUC, AP_root",
    "mupots_matched": "MuPoTS-3D, matched people only",
    "mupots_metric": "MuPoTS-3D, metric skeleton without rescaling of bones",
    "mpii_pckh": "MPII validation split: PCKh in 2D",
    "none": "whatever is given; not a benchmark",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `posezoo list` takes."""
    parser.add_argument("kind", nargs="?", help=f"only one of: {', '.join(TABLES)}")
    parser.add_argument("pattern", nargs="?", default="*", help="only names like this, such as 'metrabs*'")
    parser.add_argument("--licence", help="only weights under this licence, such as Apache-2.0")


def run(args: argparse.Namespace) -> int:
    """Print every table, or the one asked for."""
    if args.kind is not None and args.kind not in TABLES:
        raise PoseZooError(f"there is no list of '{args.kind}': {did_you_mean(args.kind, TABLES)}")
    if args.licence is not None:
        if args.kind not in (None, "weights"):
            raise PoseZooError(f"--licence chooses among weights, not {args.kind}: type `posezoo list weights`.")
        args.kind = "weights"
    kinds = [args.kind] if args.kind else list(TABLES)
    print("\n\n".join(_format(kind, _chosen(kind, args.pattern, args.licence)) for kind in kinds))
    return 0


def _chosen(kind: str, pattern: str, licence: str | None) -> dict[str, str]:
    rows = TABLES[kind]()
    if licence is not None:
        from posezoo.zoo import catalogue

        known = catalogue()
        rows = {name: row for name, row in rows.items() if known[name].licence.lower() == licence.lower()}
    return {name: row for name, row in rows.items() if fnmatchcase(name, pattern)}


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

    rows = {}
    for name, entry in catalogue().items():
        where = "bundled" if entry.bundled else "to download"
        about = f"{entry.architecture}; {entry.skeleton}; {entry.licence}; {entry.size / 2**20:.1f} MiB, {where}"
        first = entry.metrics[0] if entry.metrics else None
        if first is not None:
            metric, value = next(iter(first.values.items()))
            about += f"; {metric} {value:g} on {first.on}"
        rows[name] = about
    return rows


def _plugins() -> dict[str, str]:
    from posezoo.plugins import installed_plugins

    return installed_plugins()


TABLES: dict[str, Callable[[], dict[str, str]]] = {
    "methods": lambda: METHODS,
    "datasets": lambda: DATASETS,
    "protocols": lambda: PROTOCOLS,
    "skeletons": _skeletons,
    "weights": _weights,
    "plugins": _plugins,
}


def _format(kind: str, rows: dict[str, str]) -> str:
    width = max(map(len, rows), default=0)
    lines = [f"  {name:<{width}}  {text}" for name, text in rows.items()] or ["  none"]
    return "\n".join([kind.capitalize(), *lines])
