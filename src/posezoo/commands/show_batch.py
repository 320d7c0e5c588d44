"""Draw what a recipe feeds its model: a contact sheet of augmented crops with their 2D and 3D labels."""

import argparse
from pathlib import Path
from typing import Any

from posezoo.errors import PoseZooError

TILE = 192  # px, side of one crop on the sheet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Recipe, split, number of samples and where to write; model and data options follow."""
    parser.add_argument("-c", "--config", action="append", default=[], help="recipe or YAML file")
    parser.add_argument("--split", choices=("train", "val", "test", "predict"), default="train")
    parser.add_argument("--count", type=int, default=24, help="samples to show")
    parser.add_argument("--columns", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("batch.png"), help="picture to write")
    parser.add_argument(
        "options", nargs=argparse.REMAINDER, help="after --: options of fit, such as --data.preset full"
    )


def run(args: argparse.Namespace) -> int:
    """Write the sheet and say where it is."""
    from posezoo.callbacks.prediction_writer import write_picture

    if args.count < 1 or args.columns < 1:
        raise PoseZooError("--count and --columns must be at least 1.")
    model, data = _model_and_data(args)
    sheet = contact_sheet(data.crops(args.split), args.count, args.columns, model)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_picture(args.out, sheet)
    print(f"Wrote {args.out}: {args.split} crops of {type(data).__name__}; left is blue, right is orange.")
    return 0


def _model_and_data(args: argparse.Namespace) -> tuple[Any, Any]:
    from posezoo import cli

    options = [word for word in args.options if word != "--"]
    configs = [word for config in args.config for word in ("-c", config)] or ["-c", "metrabs/demo_synthetic"]
    cli.load_plugins()
    arguments = cli.resolve_recipes([*configs, *options, "--trainer.logger", "false"])
    cli.check_arguments(["show-batch", *arguments])
    built = cli.build(arguments, run=False)
    built.datamodule.prepare_data()
    return built.model, built.datamodule


def contact_sheet(crops: Any, count: int, columns: int, model: Any = None) -> Any:
    """Crops of a CropDataset with their labels drawn in, uint8 RGB.

    Each tile shows the crop with the 2D joints over it (far limbs first) and the 3D pose from two sides; without 3D
    labels it says what there is instead. The number is the sample's index, after that of its source in a mix. What the
    model itself makes of the labels (the triplets of HEMlets) stands beside them.
    """
    import numpy as np

    from posezoo.viz.draw2d import caption, draw_pose, tile
    from posezoo.viz.draw3d import draw_pose3d

    skeleton, tiles = crops.spec.skeleton, []
    zoom = max(1, round(TILE / crops.spec.image_size))
    tensors = [crops[key] for key in crops.preview(count)]
    rows = [{name: value.numpy() for name, value in sample.items()} for sample in tensors]
    mixed = len({int(row["source"]) for row in rows}) > 1
    for sample, row in zip(tensors, rows, strict=True):
        name = f"{row['source']}: {row['index']}" if mixed else f"{row['index']}"
        image = np.ascontiguousarray(row["image"].transpose(1, 2, 0))
        depth = row["joints3d"][:, 2] if row["valid3d"].any() else None
        overlay = draw_pose(image, row["joints2d"], skeleton, depth=depth, valid=row["valid2d"], zoom=zoom)
        side = overlay.shape[0]
        if row["valid3d"].any():
            pose = draw_pose3d(row["joints3d"], skeleton, (side, side), ("front", "side"), row["valid3d"])
            text = f"{name}, {np.linalg.norm(row['joints3d'][skeleton.root or 0]) / 1000:.1f} m"
        else:
            pose, parts = np.full((side, side, 3), 255, np.uint8), int(row["valid_order"].sum())
            text = f"{name}, 2D and order of {parts} parts" if parts else f"{name}, 2D only"
        own = _own_picture(model, sample, side)
        tiles.append(caption(np.hstack([overlay, pose, *own]), text))
    return tile(tiles, columns)


def _own_picture(model: Any, sample: dict[str, Any], side: int) -> list[Any]:
    if model is None:
        return []
    picture = model.label_picture({name: value[None] for name, value in sample.items()}, 0, side)
    return [] if picture is None else [picture]
