"""Train a small MeTRAbs on rendered people, test it on others, draw its poses: five to six minutes on two CPU cores."""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from posezoo.errors import PoseZooError

REQUIRED_GAIN = 0.30  # the model must beat the mean pose by this share, else the demo has failed
PICTURES = 24


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to write, and a photograph of your own."""
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for everything the demo makes")
    parser.add_argument("--image", type=Path, default=None, help="a photograph with one person, tried at the end")


def run(args: argparse.Namespace) -> int:
    """Render, train, test, predict; 0 if the model beats the mean pose by 30 %."""
    if args.image is not None and not args.image.is_file():
        raise PoseZooError(f"there is no picture at {args.image}: check the path after --image (or IMAGE=).")
    if args.image is not None:  # before minutes of training, not after them
        from posezoo.data.images import read_image

        read_image(args.image)
    started = time.monotonic()
    out: Path = args.out
    checkpoint = _train(out)
    result = _test(out, checkpoint)
    _predict_people(out, checkpoint)
    if args.image is not None:
        _predict_image(out, checkpoint, args.image)
    return _report(out, checkpoint, result, args.image, time.monotonic() - started)


def _log_to(out: Path, name: str) -> list[str]:
    logger = "--trainer.logger.init_args"
    return [f"{logger}.save_dir={out}", f"{logger}.name=", f"{logger}.version={name}"]


def _data_in(out: Path) -> list[str]:
    return [f"--data.root={out / 'cache'}"]


def _train(out: Path) -> Path:
    from posezoo import cli

    print("1/3  Rendering people and training on them ...", flush=True)
    cli.main(["fit", "-c", "metrabs/demo_synthetic", *_data_in(out), *_log_to(out, "train")])
    return out / "train" / "checkpoints" / "last.ckpt"  # the last, not the best: nothing is selected by a score


def _test(out: Path, checkpoint: Path) -> dict[str, Any]:
    from posezoo import cli

    print("2/3  Testing on people that it has not seen ...", flush=True)
    cli.main(["test", f"--ckpt_path={checkpoint}", *_device(), *_data_in(out), *_log_to(out, "test")])
    result: dict[str, Any] = json.loads((out / "test" / "metrics.json").read_text())["test"]
    return result


def _predict_people(out: Path, checkpoint: Path) -> None:
    from posezoo import cli

    print("3/3  Drawing poses ...", flush=True)
    sharp = ["--data.cache=false", "--data.frame_size=256", f"--data.test_length={PICTURES}"]
    cli.main(["predict", f"--ckpt_path={checkpoint}", *_device(), *sharp, *_log_to(out, "people")])


def _predict_image(out: Path, checkpoint: Path, image: Path) -> None:
    from posezoo import cli

    data = ["--data=ImageFolder", f"--data.root={image}", "--data.num_workers=0"]
    cli.main(["predict", f"--ckpt_path={checkpoint}", *_device(), *data, *_log_to(out, "photo")])


def _device() -> list[str]:
    return ["--trainer.accelerator=cpu", "--trainer.devices=1", "--threads=1"]


def _report(out: Path, checkpoint: Path, result: dict[str, Any], image: Path | None, seconds: float) -> int:
    mpjpe, baseline = result["metrics"]["mpjpe"], result["mean_pose"]["mpjpe"]
    gain = 1 - mpjpe / baseline
    photo = f"  your photograph    {out / 'photo' / 'pictures'}\n" if image else ""
    print(
        f"\nDone in {seconds / 60:.1f} min: a MeTRAbs learned 3D pose from {_samples()} rendered crops.\n"
        f"On {result['samples']} held-out people its MPJPE is {mpjpe:.0f} mm; always guessing the mean pose gives "
        f"{baseline:.0f} mm ({gain:.0%} better).\n\n"
        f"  pictures           {out / 'people' / 'pictures'}\n{photo}"
        f"  scores             {out / 'test' / 'metrics.json'}\n"
        f"  checkpoint         {checkpoint}\n\n"
        "Try next:\n"
        f"  posezoo predict --ckpt_path {checkpoint} --data ImageFolder --data.root PHOTO.jpg\n"
        "  posezoo show-batch -c metrabs/demo_synthetic      # what the network is fed\n"
        "  posezoo recipes                                   # other trainings, larger ones\n"
        "This network is tiny and has only seen rendered people; on photographs expect a hint, not a measurement."
    )
    if gain < REQUIRED_GAIN:
        print(f"\nFailed: the model should be at least {REQUIRED_GAIN:.0%} better than the mean pose.")
        return 1
    return 0


def _samples() -> int:
    import yaml

    from posezoo.recipes_index import find_recipe

    recipe = yaml.safe_load(find_recipe("metrabs/demo_synthetic").read_text(encoding="utf-8"))
    batch = recipe["data"]["init_args"].get("batch_size", 32)
    return int(recipe["trainer"]["max_steps"] * batch)
