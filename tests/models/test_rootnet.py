"""RootNet: the distance that a box implies, its correction, and a prediction of one point."""

from pathlib import Path
from typing import Any, cast

import pytest
import torch

from posezoo.cameras import Camera, image_plane_crop
from posezoo.errors import PoseZooError
from posezoo.metrics.functional import mrpe
from posezoo.models import RootNet
from posezoo.models.rootnet import distance_from_box
from posezoo.structures import Batch
from posezoo.testing import check_estimator, synthetic_batch

TINY: dict[str, Any] = {"backbone": "resnet10_w8", "image_size": 64, "width": 16}


def tiny(**arguments: Any) -> RootNet:
    torch.manual_seed(0)
    return RootNet(**(TINY | arguments))


@pytest.mark.parametrize("roll", [0.0, 30.0])
def test_a_person_who_fills_two_metres_is_where_the_box_says(roll: float) -> None:
    """k is exact for a box of 2000 mm around the root, whatever the roll and also for unequal focal lengths."""
    camera = Camera.create([[1145.0, 0, 512], [0, 1145.0, 515], [0, 0, 1]])
    side = 1145 * 2000 / 5300
    crop = image_plane_crop(camera, torch.tensor([300.0, 200.0, side, side]), 256, roll=roll)
    assert distance_from_box(crop.intrinsics[None], 256, 2000.0).item() == pytest.approx(5300, rel=1e-5)
    uneven = crop.intrinsics.clone()
    uneven[0, :2] *= 1.21
    assert distance_from_box(uneven[None], 256, 2000.0).item() == pytest.approx(1.1 * 5300, rel=1e-5)


def test_a_magnified_crop_does_not_bring_anybody_nearer() -> None:
    camera = Camera.create([[1145.0, 0, 512], [0, 1145.0, 515], [0, 0, 1]])
    box = torch.tensor([300.0, 200.0, 400.0, 300.0])
    k = [distance_from_box(image_plane_crop(camera, box, 64, zoom=z).intrinsics[None], 64, 2000.0) for z in (1.0, 1.25)]
    assert k[1] / k[0] == pytest.approx(1.25, rel=1e-5)  # a smaller box at the same camera: the correction has to know


def test_an_untrained_network_answers_k() -> None:
    batch, estimator = synthetic_batch(3), tiny().eval()
    with torch.no_grad():
        found = estimator.estimate(batch)
    torch.testing.assert_close(
        found.joints3d[:, 0, 2], distance_from_box(batch["intrinsics"], 64, 2000.0), rtol=0.05, atol=0
    )
    # The root lies on its pixel, and every joint on the root; only the root is vouched for.
    pixels = found.joints3d @ batch["intrinsics"].mT
    torch.testing.assert_close(pixels[..., :2] / pixels[..., 2:], found.joints2d, atol=1e-3, rtol=0)
    assert torch.equal(found.joints3d, found.joints3d[:, :1].expand(-1, 17, -1))
    assert not found.scores[:, 1:].any()
    assert (found.scores[:, 0] > 0).all()
    assert "MRPE" in found.root_depth_source


def test_it_keeps_the_contract() -> None:
    check_estimator(RootNet, **TINY, stride=16)
    check_estimator(RootNet, **TINY, stride=32, skeleton="mpi_inf_3dhp_17", crop="look_at")


def test_the_published_size() -> None:
    with torch.device("meta"):
        network = RootNet().network.to("meta")
    assert sum(p.numel() for p in network.parameters()) == 33_995_328 + 257 + 2049


def test_losses_are_metres_and_masked() -> None:
    batch, estimator = synthetic_batch(4), tiny().train()
    prediction = estimator.estimate(batch)
    prediction.aux["depth"] = batch["joints3d"][:, 0, 2] + torch.tensor([100.0, 300.0, 1e5, 1e5])
    inside = batch["joints2d"][:, 0].clamp(1, 62)
    batch["joints2d"][:, 0] = inside
    shift = torch.tensor([6.4, 0.0])
    prediction.aux["coords"] = (inside + shift + 0.5) / 64 - 0.5
    batch["valid3d"][2, 0], batch["has_camera"][3] = False, False
    terms = estimator.losses(prediction, batch)
    assert terms["depth"].item() == pytest.approx(0.2, abs=1e-5)
    assert terms["root2d"].item() == pytest.approx(0.2 / 2, abs=1e-5)  # a tenth of a crop of 2 m, mean of x and y
    batch["joints2d"][0, 0] = torch.tensor([70.0, 30.0])  # cannot be reached along x
    prediction.aux["coords"][0] = 0.0
    expected = (3 * 0.2 + 2 * abs(30.5 / 64 - 0.5)) / 7
    assert estimator.losses(prediction, batch)["root2d"].item() == pytest.approx(expected, abs=1e-5)


def test_a_box_that_tells_the_answer_is_refused() -> None:
    with pytest.raises(PoseZooError, match=r"--model.box annotation"):
        tiny(box="pelvis_2000mm")
    with pytest.raises(PoseZooError, match="person_mm"):
        tiny(person_mm=0)


def test_the_published_schedule() -> None:
    optimizer, schedule = tiny().default_optimizer(20)
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[16] == pytest.approx(1e-3)
    assert rates[17] == pytest.approx(1e-4)


def test_it_learns_what_the_box_does_not_say(tmp_path: Path) -> None:
    """People of two sizes, told by their colour: the correction finds the factor."""
    batch = cast(Any, synthetic_batch(8))
    small = torch.arange(8) % 2
    batch["image"] = (small[:, None, None, None] * 150 + 50).to(torch.uint8).expand(8, 3, 64, 64).contiguous()
    k = distance_from_box(batch["intrinsics"], 64, 2000.0)
    depth = k * (1.0 - 0.3 * small)
    batch["joints3d"] = torch.stack([0 * depth, 0 * depth, depth], 1)[:, None].repeat(1, 17, 1)
    batch["joints2d"] = torch.full((8, 17, 2), 32.0)
    estimator = tiny(stride=16, deconvs=1).train()
    before = _error(estimator, batch)
    optimizer = torch.optim.Adam(estimator.parameters(), lr=5e-3)
    for _ in range(40):
        terms = estimator.losses(estimator.estimate(batch), batch)
        optimizer.zero_grad()
        (terms["root2d"] + terms["depth"]).backward()
        optimizer.step()
    assert _error(estimator, batch) < 0.35 * before


def _error(estimator: RootNet, batch: Batch) -> float:
    with torch.no_grad():
        return mrpe(estimator.estimate(batch).joints3d, batch["joints3d"]).item()


def test_its_recipe_keeps_the_checkpoint_of_the_smallest_root_error(tmp_path: Path) -> None:
    from posezoo.__main__ import main

    arguments = ["-c", "rootnet/demo_synthetic", "--model.backbone=resnet10_w8", "--model.width=8"]
    data = {"train_length": 8, "val_length": 4, "frame_size": 64, "batch_size": 4, "num_workers": 0, "cache": "false"}
    arguments += [f"--data.{key}={value}" for key, value in data.items()]
    arguments += ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--trainer.devices=1"]
    arguments += [f"--trainer.logger.init_args.save_dir={tmp_path}", "--trainer.logger.init_args.version=run"]
    assert not main(["fit", *arguments, "--trainer.logger.init_args.name=", "--trainer.enable_progress_bar=false"])
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("best*.ckpt")
    assert checkpoint.name.startswith("best-step2-mrpe")

    # Trained on hemlets18, scored on another skeleton: it predicts the root, which every skeleton has.
    test = ["test", f"--ckpt_path={checkpoint}", "--model.skeleton=h36m17", "--trainer.devices=1"]
    test += [f"--trainer.logger.init_args.save_dir={tmp_path}", "--trainer.logger.init_args.version=test"]
    assert not main([*test, "--trainer.logger.init_args.name=", "--trainer.enable_progress_bar=false"])
    assert (tmp_path / "test" / "metrics.json").is_file()
