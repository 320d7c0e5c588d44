"""Options meant for a GPU, proved on the CPU: fused optimiser, compiled network, colour jitter on the device."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torchvision.transforms.v2.functional as oracle
from torch import Tensor

from posezoo.callbacks import ColourOnDevice, CompileNetwork, NonFiniteGuard
from posezoo.callbacks.colour import CHANGES
from posezoo.data import SyntheticPeople
from posezoo.data.batch_blur import gaussian_blur
from posezoo.data.crop import Augmentation
from posezoo.data.photometric import RANGES
from posezoo.errors import PoseZooError
from posezoo.models import HEMlets, IntegralPose, MeTRAbs
from posezoo.models.base import PoseEstimator
from posezoo.models.optimizers import fuse
from posezoo.testing import synthetic_batch, tiny_estimator

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Lightning's advice about workers and loggers


class Diary(pl.Callback):
    """The loss of every step, the images it was made from, and the options of the optimiser's first group."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.images: list[Tensor] = []
        self.options: dict[str, Any] = {}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self.losses.append(float(outputs["loss"]))
        self.images.append(batch["image"].clone())
        self.options = dict(trainer.optimizers[0].param_groups[0])


def fit(
    folder: Path, *callbacks: pl.Callback, steps: int = 3, method: type[PoseEstimator] = MeTRAbs, **settings: Any
) -> tuple[PoseEstimator, Diary]:
    pl.seed_everything(0, verbose=False)
    small = {"width": 8, "feature_width": 8, "deconvs": 1, "depth_bins": 8} if method is HEMlets else {}
    estimator, diary = tiny_estimator(method, **small), Diary()
    lengths = {"train_length": 8, "val_length": 4, "test_length": 4}
    plain = Augmentation(colour=False, occlusion=0)
    data = SyntheticPeople(
        preset="easy",
        frame_size=64,
        skeleton=estimator.skeleton.name,
        crop=estimator.crop,
        image_size=64,
        batch_size=4,
        num_workers=0,
        augmentation=plain,
        **lengths,
    )
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=steps, logger=False, default_root_dir=folder, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0, callbacks=[*callbacks, diary],
        **settings,
    )  # fmt: skip
    trainer.fit(estimator, data)
    return estimator, diary


# -------------------------------------------------------------------------------------------------- fused optimiser


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_a_fused_optimiser_makes_the_same_steps(kind: Any) -> None:
    draw = torch.Generator().manual_seed(0)
    start, pulls = torch.randn(500, generator=draw), torch.randn(10, 500, generator=draw)
    ends = []
    for chosen in (lambda _optimizer: None, fuse):
        weights = start.clone().requires_grad_()
        optimizer = kind([weights], lr=0.1, weight_decay=0.1)
        chosen(optimizer)
        for pull in pulls:
            weights.grad = pull.clone()
            optimizer.step()
        ends.append(weights.detach())
    assert optimizer.param_groups[0]["fused"]
    assert not torch.equal(ends[0], start)
    torch.testing.assert_close(ends[1], ends[0], atol=1e-6, rtol=1e-6)


def test_a_fused_optimiser_clips_in_mixed_precision(tmp_path: Path) -> None:
    """Lightning refuses it for optimisers that were constructed with fused=True."""
    _, diary = fit(tmp_path, NonFiniteGuard(), gradient_clip_val=1.0, precision="bf16-mixed", steps=1)
    assert diary.options["fused"]
    assert np.isfinite(diary.losses).all()


def test_only_adam_is_fused_and_only_where_torch_can(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = [torch.zeros(2, requires_grad=True)]
    others = [torch.zeros(2, device="meta", requires_grad=True)]
    for optimizer in (torch.optim.SGD(weights, lr=0.1), torch.optim.Adam(others), torch.optim.AdamW(others)):
        before = {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}
        fuse(optimizer)
        assert {key: value for key, value in optimizer.param_groups[0].items() if key != "params"} == before


def test_loaded_moments_are_laid_out_as_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's fused step on a CPU takes weights and moments as they lie in memory, and mixes them up otherwise."""
    monkeypatch.setattr(PoseEstimator, "total_steps", lambda _: 10)
    draw = torch.Generator()
    saved = tiny_estimator(MeTRAbs)
    ends = []
    for layout in (torch.contiguous_format, torch.channels_last):
        estimator = tiny_estimator(MeTRAbs)
        estimator.load_state_dict(saved.state_dict())
        draw.manual_seed(1)
        optimizer = configured(estimator.to(memory_format=torch.contiguous_format))
        for _ in range(2):
            pull(estimator, draw)
            optimizer.step()
        state = copy.deepcopy(optimizer.state_dict())
        resumed = configured(estimator.to(memory_format=layout))
        resumed.load_state_dict(state)
        pull(estimator, draw)
        resumed.step()
        ends.append([weight.detach() for weight in estimator.parameters()])
    torch.testing.assert_close(ends[1], ends[0])


def configured(estimator: PoseEstimator) -> torch.optim.Optimizer:
    found: Any = estimator.configure_optimizers()
    optimizer: torch.optim.Optimizer = found["optimizer"]
    assert optimizer.param_groups[0]["fused"]
    return optimizer


def pull(estimator: PoseEstimator, draw: torch.Generator) -> None:
    for weight in estimator.parameters():
        weight.grad = torch.empty_like(weight).copy_(torch.randn(weight.shape, generator=draw))


# ------------------------------------------------------------------------------------------------- compiled network


def test_a_compiled_network_trains_as_before(tmp_path: Path) -> None:
    compiled: list[bool] = []

    class Spy(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            compiled.append(pl_module.network._compiled_call_impl is not None)
            assert pl_module._compiled_call_impl is None, "never the LightningModule"

    plain, expected = fit(tmp_path, steps=2)
    estimator, found = fit(tmp_path, CompileNetwork(backend="aot_eager"), Spy(), steps=2)
    assert compiled == [True, True]
    assert found.losses == pytest.approx(expected.losses, rel=1e-4)
    assert estimator.state_dict().keys() == plain.state_dict().keys()
    assert estimator.network._compiled_call_impl is None, "compiled for the fit only"


def test_targets_are_compiled_with_the_network(tmp_path: Path) -> None:
    class Spy(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            assert pl_module.draw_targets is not HEMlets.draw_targets
            assert hasattr(pl_module.draw_targets, "_torchdynamo_orig_callable")

    _, expected = fit(tmp_path, steps=2, method=HEMlets)
    estimator, found = fit(tmp_path, CompileNetwork(backend="aot_eager"), Spy(), steps=2, method=HEMlets)
    assert found.losses == pytest.approx(expected.losses, rel=1e-4)
    assert estimator.draw_targets is HEMlets.draw_targets, "compiled for the fit only"


@pytest.mark.parametrize("method", [MeTRAbs, IntegralPose])
def test_a_compiled_network_is_one_graph(method: type[PoseEstimator]) -> None:
    """Nothing in it sends the compiler back to Python."""
    small = {"width": 8, "deconvs": 1, "depth_bins": 8} if method is IntegralPose else {}
    found = torch._dynamo.explain(tiny_estimator(method, **small).network)(synthetic_batch()["image"])
    assert found.graph_break_count == 0


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"backend": "induktor"}, "unknown backend 'induktor' of CompileNetwork: did you mean inductor"),
        ({"mode": "max-autotun"}, "unknown mode 'max-autotun' of CompileNetwork: did you mean max-autotune"),
    ],
)
def test_what_cannot_be_compiled_with_is_refused_at_once(wrong: dict[str, str], told: str) -> None:
    with pytest.raises(PoseZooError, match=told):
        CompileNetwork(**wrong)


# ---------------------------------------------------------------------------------------------------------- colours

ORACLES = {
    "brightness": oracle.adjust_brightness,
    "contrast": oracle.adjust_contrast,
    "saturation": oracle.adjust_saturation,
    "hue": oracle.adjust_hue,
}


def crops(count: int = 6, side: int = 24) -> Tensor:
    """Noise, with grey, black and white pixels in it: hue is undefined there."""
    images = torch.rand((count, 3, side, side), generator=torch.Generator().manual_seed(0))
    images[:, :, 0], images[:, :, 1], images[:, :, 2] = 0.5, 0, 1
    return images


@pytest.mark.parametrize("name", list(RANGES))
def test_changes_are_those_of_torchvision(name: str) -> None:
    images = crops()
    factors = torch.linspace(*RANGES[name], len(images))
    found = CHANGES[name](images, factors).clamp(0, 1)
    expected = torch.stack([ORACLES[name](each, float(by)) for each, by in zip(images, factors, strict=True)])
    torch.testing.assert_close(found, expected, atol=5e-4, rtol=0)  # its grey has 0.2989 instead of 0.299


def test_blur_is_that_of_torchvision() -> None:
    images = crops()
    sigmas = torch.tensor([0.0, 0.3, 0.6, 0.9, 1.2, 1.5])
    found = gaussian_blur(images, sigmas, 5)
    assert torch.equal(found[0], images[0])
    for each, image, sigma in zip(found[1:], images[1:], sigmas[1:], strict=True):
        torch.testing.assert_close(each, oracle.gaussian_blur(image, 11, float(sigma)), atol=1e-5, rtol=0)


def test_images_stay_bytes_and_draws_belong_to_the_generator() -> None:
    images = (crops(40) * 255).to(torch.uint8)
    change = ColourOnDevice(blur=0.5).changed
    once, again, other = (change(images, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert once.dtype == torch.uint8
    assert once.shape == images.shape
    assert torch.equal(once, again)
    assert (once != other).float().mean() > 0.5
    means = once.float().mean((1, 2, 3))
    assert means.std() > 3, "every crop has factors of its own"


def test_training_crops_change_and_a_resumed_run_repeats_them(tmp_path: Path) -> None:
    _, plain = fit(tmp_path)
    _, first = fit(tmp_path, ColourOnDevice())
    _, second = fit(tmp_path, ColourOnDevice())
    for before, ours, again in zip(plain.images, first.images, second.images, strict=True):
        assert (before != ours).float().mean() > 0.3
        assert torch.equal(ours, again)
    callback = ColourOnDevice()
    batch = {"image": plain.images[2].clone()}
    trainer: Any = SimpleNamespace(fit_loop=SimpleNamespace(total_batch_idx=2), global_rank=0)
    callback.on_train_batch_start(trainer, None, batch, batch_idx=0)
    assert torch.equal(batch["image"], first.images[2]), "the number of the batch decides, not what came before"
    nested = {"weights": {"image": plain.images[2].clone()}, "arch": {"image": plain.images[1].clone()}}
    callback.on_train_batch_start(trainer, None, nested, batch_idx=0)
    assert torch.equal(nested["weights"]["image"], first.images[2])
    assert not torch.equal(nested["arch"]["image"], plain.images[1])


def test_colours_are_not_changed_twice() -> None:
    data = SyntheticPeople(augmentation=Augmentation())
    for datamodule in (data, SimpleNamespace(sources=[data]), SimpleNamespace(dataset=data)):
        with pytest.raises(PoseZooError, match=r"--data\.augmentation\.colour=false"):
            ColourOnDevice().on_fit_start(SimpleNamespace(datamodule=datamodule), None)  # type: ignore[arg-type]
    with pytest.raises(PoseZooError, match="probability"):
        ColourOnDevice(blur=2)
