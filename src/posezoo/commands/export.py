"""Write a trained model as ONNX or torch.export: crops and intrinsics in, poses out; checked before it is kept."""

import argparse
from pathlib import Path

from posezoo.errors import PoseZooError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `posezoo export` takes."""
    parser.add_argument("weights", help="a name of `posezoo list weights`, a hub id, a folder or a .ckpt")
    parser.add_argument("--format", default="onnx", help="onnx or torch (torch.export)")
    parser.add_argument("--out", type=Path, help="file to write: .onnx, or .pt2 for torch")
    parser.add_argument("--precision", default="float32", help="float32, float16, or int8 (dynamic; ONNX only)")
    parser.add_argument("--opset", type=int, default=18, help="of ONNX (default 18)")
    parser.add_argument("--root-depth", help="2.5D methods: bone_length, or a distance in mm (default: as trained)")
    parser.add_argument("--people", type=int, default=8, help="rendered people to compare with PyTorch (default 8)")


def run(args: argparse.Namespace) -> int:
    """Export, compare, and print what it costs."""
    if args.out is None:
        raise PoseZooError("where to? Add --out FILE.onnx, or FILE.pt2 with --format torch.")
    if args.people < 1:
        raise PoseZooError(f"--people must be at least 1, got {args.people}.")
    if not 18 <= args.opset <= 23:
        raise PoseZooError(f"--opset must be 18 to 23, got {args.opset}.")
    from posezoo.export import export_model
    from posezoo.zoo import load_model

    estimator = load_model(args.weights)
    if args.root_depth is not None:
        from posezoo.models.volumetric import VolumetricPose, parse_root_depth

        if not isinstance(estimator, VolumetricPose):
            raise PoseZooError(
                f"--root-depth is for 2.5D methods; {type(estimator).__name__} finds the distance itself."
            )
        estimator.root_depth = parse_root_depth(args.root_depth, estimator.rootnet_path)
    difference = export_model(estimator, args.out, args.format, args.precision, args.opset, args.people)
    size = args.out.stat().st_size / 2**20
    opset = f", opset {args.opset}" if args.format == "onnx" else ""
    print(
        f"{args.out}: {args.format}{opset}, {args.precision}, {size:.1f} MiB\n"
        f"Difference to PyTorch in float32: {difference}"
    )
    return 0
