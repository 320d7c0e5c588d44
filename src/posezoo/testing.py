"""For tests of your own methods: a batch without any dataset, and a check of the contract of `PoseEstimator`."""

import tempfile
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from posezoo.models.base import PoseEstimator, load_estimator
from posezoo.skeletons import get_skeleton
from posezoo.structures import IDENTITIES, Batch, Prediction

TINY: dict[str, Any] = {"backbone": "resnet10_w8", "image_size": 64, "stride": 16}


def synthetic_batch(
    batch_size: int = 2, skeleton: str = "h36m17", image_size: int = 64, seed: int = 0, labels: str = "3d"
) -> Batch:
    """A `Batch` of noise images with consistent random labels; no renderer, no files.

    Args:
        batch_size: B.
        skeleton: Name of the skeleton.
        image_size: Side of the crops, px.
        seed: Of everything random in it.
        labels: "3d" (all), "2d" (3D withheld) or "none".

    Raises:
        ValueError: Another value of `labels`.
    """
    if labels not in ("3d", "2d", "none"):
        raise ValueError(f"labels must be '3d', '2d' or 'none', got '{labels}'.")
    body, g = get_skeleton(skeleton), torch.Generator().manual_seed(seed)
    joints, parts = len(body), len(body.parts)
    root = torch.tensor([0.0, 0.0, 4000.0]) + 300 * torch.randn(batch_size, 1, 3, generator=g)
    pose = root + 250 * torch.randn(batch_size, joints, 3, generator=g)
    focal = 1.6 * image_size
    k = torch.tensor([[focal, 0, image_size / 2], [0, focal, image_size / 2], [0, 0, 1]]).repeat(batch_size, 1, 1)
    pixels = pose @ k.mT
    eye = torch.eye(3).repeat(batch_size, 1, 1)
    has_3d = torch.full((batch_size, joints), labels == "3d")
    has_2d = torch.full((batch_size, joints), labels != "none")
    shape = (batch_size, 3, image_size, image_size)
    batch = {
        "image": torch.randint(0, 256, shape, dtype=torch.uint8, generator=g),
        "intrinsics": k,
        "rotation": eye,
        "crop_to_image": eye,
        "source_intrinsics": k,
        "source_distortion": torch.zeros(batch_size, 12),
        "distortion_model": torch.zeros(batch_size, dtype=torch.int64),
        "has_camera": torch.full((batch_size,), labels == "3d"),
        "box": torch.tensor([0.0, 0.0, image_size, image_size]).repeat(batch_size, 1),
        "joints3d": pose * has_3d[..., None],
        "joints2d": (pixels[..., :2] / pixels[..., 2:]) * has_2d[..., None],
        "valid3d": has_3d,
        "valid2d": has_2d,
        "depth_order": torch.zeros(batch_size, parts, dtype=torch.int8),
        "valid_order": torch.zeros(batch_size, parts, dtype=torch.bool),
        **{name: torch.zeros(batch_size, dtype=torch.int64) for name in IDENTITIES},
    }
    batch["index"] = torch.arange(batch_size)
    return cast(Batch, batch)


def tiny_estimator(cls: type[PoseEstimator], **arguments: Any) -> PoseEstimator:
    """An estimator small enough for a unit test; arguments win over `TINY`."""
    return cls(**(TINY | arguments))


def check_estimator(cls: type[PoseEstimator], **arguments: Any) -> None:
    """Assert that a method keeps the contract that data, metrics and the command line rely on.

    Args:
        cls: The estimator class; it must accept `backbone`, `image_size` and `stride`, or all of its own arguments.
        arguments: Passed to its constructor.

    Raises:
        AssertionError: With what is broken.
    """
    estimator = tiny_estimator(cls, **arguments)
    name, size = estimator.skeleton.name, estimator.image_size
    for labels in ("3d", "2d", "none"):
        _check_training(estimator, synthetic_batch(2, name, size, labels=labels), labels)
    batch = synthetic_batch(3, name, size)
    _check_inference(estimator, batch)
    _check_checkpoint(estimator, batch)


def _check_training(estimator: PoseEstimator, batch: Batch, labels: str) -> None:
    estimator.train()
    estimator.zero_grad()
    terms = estimator.losses(estimator.estimate(batch), batch)
    assert terms, "losses() returned nothing"
    for key, term in terms.items():
        assert term.ndim == 0, f"loss '{key}' is not a scalar"
        assert torch.isfinite(term), f"loss '{key}' is {term} with labels={labels}"
        assert term.requires_grad, f"loss '{key}' is cut off from the graph with labels={labels}: a rank would hang"
    torch.stack(list(terms.values())).sum().backward()
    for key, parameter in estimator.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), f"gradient of {key} is not finite"


def _check_inference(estimator: PoseEstimator, batch: Batch) -> None:
    estimator.eval()
    first = cast(Batch, {key: cast(Tensor, value)[:1] for key, value in batch.items()})
    with torch.no_grad():
        prediction = estimator.predict_step(batch, 0)
        single = estimator.predict_step(first, 0)
    count, joints = len(batch["image"]), len(estimator.skeleton)
    shapes: dict[str, int] = {"joints3d": 3, "joints3d_rel": 3, "joints2d": 2}
    for key, width in shapes.items():
        value: Tensor = getattr(prediction, key)
        assert value.shape == (count, joints, width), f"{key} has shape {tuple(value.shape)}"
        assert value.dtype == torch.float32, f"{key} is {value.dtype}"
        assert value.isfinite().all(), f"{key} is not finite"
    assert prediction.scores.shape == (count, joints), "scores must be [batch, joints]"
    assert ((prediction.scores >= 0) & (prediction.scores <= 1)).all(), "scores must lie in 0..1"
    assert not prediction.aux, "predict_step must drop aux"
    assert prediction.joints3d_rel[:, estimator.root].abs().max() < 1e-3, "joints3d_rel has its root off the origin"
    difference = (prediction.joints3d[:1] - single.joints3d).abs().max()
    assert difference < 1.0, f"a person moves by {difference:.2f} mm with who else is in the batch"


def _check_checkpoint(estimator: PoseEstimator, batch: Batch) -> None:
    import pytorch_lightning as pl

    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="cpu", logger=False, enable_checkpointing=False, barebones=True, default_root_dir=folder
        )
        trainer.strategy.connect(estimator)
        path = Path(folder) / "check.ckpt"
        trainer.save_checkpoint(path, weights_only=True)
        restored = load_estimator(path).eval()
        before, after = _joints(estimator.eval(), batch), _joints(restored, batch)
    assert torch.equal(before, after), "a checkpoint predicts something else than the model that wrote it"


def _joints(estimator: PoseEstimator, batch: Batch) -> Tensor:
    with torch.no_grad():
        prediction: Prediction = estimator.predict_step(batch, 0)
    return prediction.joints3d
