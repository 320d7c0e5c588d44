"""IntegralPose and what the 2.5D methods share: heads, conventions, loss masks, and the way to millimetres."""

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from posezoo.cameras import Camera, image_plane_crop
from posezoo.errors import PoseZooError
from posezoo.models import IntegralPose, RootNet
from posezoo.models.heads import CONVENTIONS, DeconvTower, VolumetricHead, as_volumes, decode_volume
from posezoo.models.volumetric import box_share, default_bone_lengths, integral_loss, parse_root_depth
from posezoo.skeletons import HEMLETS18, SKELETONS, get_skeleton
from posezoo.structures import Batch, Prediction
from posezoo.testing import check_estimator, synthetic_batch

TINY: dict[str, Any] = {"backbone": "resnet10_w8", "image_size": 64, "width": 16, "depth_bins": 16}
CLEAN, OFFICIAL = CONVENTIONS["clean"], CONVENTIONS["official"]


def tiny(**arguments: Any) -> IntegralPose:
    torch.manual_seed(0)
    return IntegralPose(**(TINY | arguments))


def batch_of(**arguments: Any) -> Batch:
    return synthetic_batch(**({"batch_size": 3, "skeleton": "hemlets18"} | arguments))


# ---------------------------------------------------------------- the published network


def test_the_published_size_and_cost() -> None:
    """34.29 M parameters and 8.43 GMACs at 18 joints and 256 px."""
    with torch.device("meta"):
        network = IntegralPose().network.to("meta").train()
    assert sum(p.numel() for p in network.parameters()) == 34_291_392
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, 256, 256, device="meta"))
    assert counter.get_total_flops() / 2e9 == pytest.approx(8.43, abs=0.005)


@pytest.mark.parametrize(("joints", "millions"), [(17, 34.275), (21, 34.341)])
def test_other_joint_counts(joints: int, millions: float) -> None:
    trunk_and_tower = 33_995_328
    head = VolumetricHead(256, joints)
    total = trunk_and_tower + sum(p.numel() for p in head.parameters())
    assert total / 1e6 == pytest.approx(millions, abs=5e-4)


def test_heads_start_small() -> None:
    tower, head = DeconvTower(64, 32), VolumetricHead(32, 18)
    for layer in [*tower, head.conv]:
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            assert layer.weight.std().item() == pytest.approx(0.001, rel=0.1)
    assert not cast(Tensor, head.conv.bias).any()
    assert tower(torch.zeros(1, 64, 2, 3)).shape == (1, 32, 16, 24)


def test_it_keeps_the_contract() -> None:
    check_estimator(IntegralPose, **TINY, stride=32)


def test_it_keeps_the_contract_with_a_given_depth_and_official_coordinates() -> None:
    check_estimator(IntegralPose, **TINY, stride=32, root_depth=4000, convention="official", skeleton="h36m17")


@pytest.mark.parametrize("name", ["width", "deconvs", "depth_bins", "depth_mm"])
def test_sizes_are_positive(name: str) -> None:
    with pytest.raises(PoseZooError, match=f"--model.{name}"):
        tiny(**{name: 0})


# ---------------------------------------------------------------- T8: soft-argmax


def one_peak(*cells: tuple[int, int, int]) -> Tensor:
    """Volume [1, 1, 64, 64, 64] with 1e4 at the given (depth, row, column)."""
    volume = torch.zeros(1, 1, 64, 64, 64)
    for cell in cells:
        volume[0, 0][cell] = 1e4
    return volume


@pytest.mark.parametrize(
    ("grid", "peak", "middle"),
    [
        ("corners", (-0.0238095, -0.1825397, -0.3412698), (-0.0238095, -0.0079365)),
        ("cells", (-0.0234375, -0.1796875, -0.3359375), (-0.0234375, -0.0078125)),
    ],
)
def test_soft_argmax_of_both_grids(grid: Any, peak: tuple[float, ...], middle: tuple[float, float]) -> None:
    coords, scores = decode_volume(one_peak((10, 20, 30)), grid, scored=True)
    torch.testing.assert_close(coords[0, 0], torch.tensor(peak), atol=1e-6, rtol=0)
    assert scores[0, 0] == pytest.approx(1)
    coords, _ = decode_volume(one_peak((31, 20, 10), (31, 20, 50)), grid, scored=False)
    torch.testing.assert_close(coords[0, 0, [0, 2]], torch.tensor(middle), atol=1e-6, rtol=0)
    coords, scores = decode_volume(torch.full((1, 1, 64, 64, 64), 3.0), grid, scored=False)
    assert coords.abs().max() < 1e-6
    assert not scores.any()


def test_channels_are_joint_then_depth() -> None:
    logits = torch.zeros(2, 18 * 64, 64, 64)
    logits[:, 5 * 64 + 10, 20, 30] = 1e4
    for layout in (logits, logits.contiguous(memory_format=torch.channels_last)):
        volumes = as_volumes(layout, 18)
        assert volumes.data_ptr() == layout.data_ptr()
        coords, _ = decode_volume(volumes, "cells", scored=False)
        torch.testing.assert_close(coords[1, 5], torch.tensor([-0.0234375, -0.1796875, -0.3359375]), atol=1e-6, rtol=0)
        others = [j for j in range(18) if j != 5]
        assert coords[:, others].abs().max() < 1e-6


def test_training_keeps_one_copy_of_the_volume_and_leaves_it_alone() -> None:
    head, features = VolumetricHead(4, 18), torch.randn(1, 4, 64, 64)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        volume = head(features)
        coords, _ = decode_volume(volume, "cells", scored=False)
    before, size = volume.detach().clone(), volume.untyped_storage().nbytes()
    assert size == 18 * 64**3 * 4
    assert volume.untyped_storage().data_ptr() in kept
    assert sum(kept.values()) < 1.05 * size
    coords.sum().backward()
    assert torch.equal(volume, before)


# ---------------------------------------------------------------- T9: coordinates


@pytest.mark.parametrize("name", ["clean", "official"])
def test_conventions_come_back(name: str) -> None:
    convention = CONVENTIONS[name]
    pixels = torch.tensor([[0.0, 255.0], [12.5, 100.0]])
    coords = convention.from_pixels(pixels, 256)
    torch.testing.assert_close(convention.to_pixels(coords, 256), pixels)
    mirrored = convention.mirrored(torch.cat([coords, coords[:, :1]], 1), 256)
    torch.testing.assert_close(convention.to_pixels(mirrored[:, :2], 256)[:, 0], 255 - pixels[:, 0])
    torch.testing.assert_close(mirrored[:, 1:], torch.cat([coords[:, 1:], coords[:, :1]], 1))


def test_cells_of_both_conventions() -> None:
    coords = torch.tensor([-0.5, 0.0, 0.5])
    assert CLEAN.to_cells(coords, 64).tolist() == [-0.5, 31.5, 63.5]
    assert OFFICIAL.to_cells(coords, 64).tolist() == [0.0, 31.5, 63.0]


def test_a_box_of_the_release_and_back() -> None:
    """T9: f = 1145, c = 512, pelvis at 5 m, box of 2000 mm."""
    camera = Camera.create([[1145.0, 0, 512], [0, 1145.0, 512], [0, 0, 1]], dtype=torch.float64)
    crop = image_plane_crop(camera, torch.tensor([283.0, 283, 458, 458], dtype=torch.float64), 256)
    joint = torch.tensor([[0.0, 0, 5000], [200, -300, 5100]], dtype=torch.float64)
    pixels = camera.project(joint)
    torch.testing.assert_close(pixels[1], torch.tensor([556.902, 444.647]).double(), atol=1e-3, rtol=0)
    # The release crops with corners, we with pixel centres: half a pixel apart.
    official = (pixels[1] - 283) * 256 / 458
    torch.testing.assert_close(official, torch.tensor([153.098, 90.353]).double(), atol=1e-3, rtol=0)
    torch.testing.assert_close(
        OFFICIAL.from_pixels(official, 256), torch.tensor([0.098039, -0.147059]).double(), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(crop.from_image(pixels)[1], official - 0.5, atol=1e-9, rtol=0)

    network = Fixed(
        torch.cat(
            [CLEAN.from_pixels(crop.from_image(pixels), 256), torch.tensor([[0.0], [0.05]], dtype=torch.float64)], 1
        )
    )
    estimator = tiny(image_size=256, root_depth="truth", flip_test=False, skeleton="h36m17").double().eval()
    estimator.network = network  # type: ignore[assignment]
    batch = cast(Any, synthetic_batch(1, "h36m17", 256))
    batch |= {"intrinsics": crop.intrinsics[None], "crop_to_image": crop.crop_to_image[None]}
    batch["box"] = torch.tensor([[283.0, 283, 458, 458]], dtype=torch.float64)
    batch["joints3d"] = joint[[0] + 16 * [1]][None]
    assert (estimator.estimate(batch).joints3d[0, :2] - joint).abs().max() < 1e-6


class Fixed(nn.Module):
    """Answers the coordinates of joints 0 and 1 (as all others), whatever it sees."""

    def __init__(self, coords: Tensor) -> None:
        super().__init__()
        self.coords = coords[[0] + 16 * [1]][None]

    def forward(self, image: Tensor) -> Any:
        from posezoo.models.heads import VolumeOutput

        return VolumeOutput(self.coords, torch.ones(1, 17))


# ---------------------------------------------------------------- T7: loss and masks


def test_the_volume_loss_is_a_sum_over_joints_and_known_axes() -> None:
    prediction = torch.zeros(2, 18, 3, requires_grad=True)
    target = torch.tensor([0.1, -0.2, 0.05]).expand(2, 18, 3).clone()
    known = torch.ones(2, 18, 3, dtype=torch.bool)
    assert integral_loss(prediction, target, known).item() == pytest.approx(6.30)
    known[..., 2] = False
    loss = integral_loss(prediction, target, known)
    assert loss.item() == pytest.approx(5.40)
    (gradient,) = torch.autograd.grad(loss, prediction)
    target[..., 2] = 0.3
    again = integral_loss(prediction, target, known)
    assert again.item() == pytest.approx(5.40)
    assert torch.equal(torch.autograd.grad(again, prediction)[0], gradient)
    assert not gradient[..., 2].any()


def test_a_2d_label_trains_x_and_y_only() -> None:
    estimator = tiny().train()
    full, flat = batch_of(), batch_of(labels="2d")
    target, known = estimator.volume_targets(flat)
    assert known[..., :2].any()
    assert not known[..., 2].any()
    torch.testing.assert_close(target[..., :2], estimator.volume_targets(full)[0][..., :2])
    found = estimator.losses(estimator.estimate(flat), flat)["volume"]
    moved = cast(Any, dict(flat)) | {"joints3d": full["joints3d"] + 123.0}
    assert torch.equal(found, estimator.losses(estimator.estimate(flat), moved)["volume"])


def test_depth_needs_the_root_and_what_cannot_be_reached_does_not_count() -> None:
    estimator, batch = tiny(), batch_of()
    batch["joints2d"][:] = 30.0
    batch["joints3d"][..., 2] = 4000.0
    batch["joints3d"][0, 3, 2] += 1001.0
    batch["joints2d"][1, 4] = torch.tensor([63.6, 20.0])
    batch["valid3d"][2, 0] = False
    target, known = estimator.volume_targets(batch)
    assert known[0, 3].tolist() == [True, True, False]
    assert known[1, 4].tolist() == [False, True, True]
    assert known[2].all(0).tolist() == [True, True, False]
    assert not known[2, :, 2].any()
    assert known.sum() == 3 * 18 * 3 - 1 - 1 - 18
    assert target[1, 4, 0] == pytest.approx((63.6 + 0.5) / 64 - 0.5)


# ---------------------------------------------------------------- zoom and depth


@pytest.mark.parametrize("roll", [0.0, 25.0])
def test_a_magnified_crop_spans_less_depth(roll: float) -> None:
    camera = Camera.create([[1145.0, 0, 512], [0, 1145.0, 512], [0, 0, 1]])
    box = torch.tensor([300.0, 200.0, 300.0, 458.0])
    batch = cast(Any, batch_of(batch_size=1))
    batch["box"] = box[None]
    for zoom in (0.8, 1.0, 1.25):
        crop = image_plane_crop(camera, box, 64, roll=roll, zoom=zoom, flip=True)
        batch |= {"crop_to_image": crop.crop_to_image[None], "intrinsics": crop.intrinsics[None]}
        assert tiny().depth_range(batch).item() == pytest.approx(2000 / zoom, rel=1e-4)
        assert tiny(depth_follows_zoom=False).depth_range(batch).item() == 2000
        batch["joints3d"][0, 0] = torch.tensor([0.0, 0.0, 1145 * 2000 / 458])  # where the box is 2000 mm wide
        assert box_share(batch, 64, "pelvis_2000mm", 0).item() == pytest.approx(1 / zoom, rel=1e-4)
    batch["valid3d"][:] = False
    assert box_share(batch, 64, "pelvis_2000mm", 0).item() == 1


# ---------------------------------------------------------------- millimetres


def test_the_bones_on_the_device_are_those_of_the_skeleton_and_not_saved() -> None:
    estimator = tiny()
    assert [tuple(bone) for bone in estimator.bone_ends.tolist()] == list(estimator.skeleton.bones)
    assert {name for name in estimator.state_dict() if not name.startswith("network.")} == {
        "bone_lengths",
        "bone_counts",
        "official_grid",
    }


def estimate(batch: Batch, **arguments: Any) -> Prediction:
    estimator = tiny(**arguments).eval()
    with torch.no_grad():
        return estimator.estimate(batch)


def test_the_root_stands_where_it_is_said_to() -> None:
    batch = batch_of()
    truth = estimate(batch, root_depth="truth")
    torch.testing.assert_close(truth.joints3d[:, 0, 2], batch["joints3d"][:, 0, 2])
    assert truth.root_depth_source == "truth"
    given = estimate(batch, root_depth=3210.0)
    torch.testing.assert_close(given.joints3d[:, 0, 2], torch.full((3,), 3210.0))
    assert given.root_depth_source == "3210 mm for everybody"
    for found in (truth, given):
        pixels = found.joints3d @ batch["intrinsics"].mT
        torch.testing.assert_close(pixels[..., :2] / pixels[..., 2:], found.joints2d, atol=1e-2, rtol=0)


def test_bone_lengths_are_learned_from_the_training_labels() -> None:
    estimator, batch = tiny().eval(), batch_of(batch_size=4)
    assert estimator.estimate(batch).root_depth_source == "bone lengths (built-in adult limbs, untrained)"
    parent, child = torch.tensor(HEMLETS18.bones).unbind(1)
    batch["valid3d"][0, 3] = False
    estimator.on_train_batch_start(batch, 0)
    second = batch_of(batch_size=2, seed=5)
    estimator.on_train_batch_start(second, 1)
    joints = torch.cat([batch["joints3d"], second["joints3d"]])
    valid = torch.cat([batch["valid3d"], second["valid3d"]])
    lengths = (joints[:, child] - joints[:, parent]).norm(dim=-1)
    used = valid[:, child] & valid[:, parent]
    expected = (lengths * used).sum(0) / used.sum(0)
    torch.testing.assert_close(estimator.bone_lengths, expected)
    assert estimator.estimate(batch).root_depth_source == "bone lengths (mean of the training labels)"

    copy = tiny()
    copy.load_state_dict(estimator.state_dict())
    found, loaded = estimator.estimate(batch), copy.eval().estimate(batch)
    assert loaded.root_depth_source == found.root_depth_source
    torch.testing.assert_close(loaded.joints3d, found.joints3d)


def test_samples_without_3d_leave_the_bone_lengths_alone() -> None:
    estimator = tiny()
    before = estimator.bone_lengths.clone()
    estimator.on_train_batch_start(batch_of(labels="2d"), 0)
    assert torch.equal(estimator.bone_lengths, before)
    assert not estimator.bone_counts.any()


def test_every_skeleton_with_a_root_has_limbs_to_start_with() -> None:
    for skeleton in SKELETONS.values():
        if skeleton.root is not None:
            lengths = default_bone_lengths(skeleton)
            assert (lengths > 0).sum() >= 10, skeleton
            shin = skeleton.bones.index((skeleton.index("l_knee"), skeleton.index("l_ankle")))
            assert lengths[shin] == pytest.approx(454.21)


def test_the_truth_is_refused_for_predictions_and_where_it_is_missing() -> None:
    estimator = tiny(root_depth="truth").eval()
    with pytest.raises(PoseZooError, match="bone_length"):
        estimator.predict_step(batch_of(), 0)
    with pytest.raises(PoseZooError, match="3D root"):
        estimator.estimate(batch_of(labels="2d"))
    mixed = batch_of()
    mixed["valid3d"][1] = False
    found = estimator.estimate(mixed)
    assert found.joints3d[1].isnan().all()
    assert found.joints3d[[0, 2]].isfinite().all()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("bone_lengths", "bone_length"),
        ("-3", "positive"),
        (0.0, "positive"),
        ("inf", "positive"),
        ("rootnet", "--model.rootnet"),
    ],
)
def test_an_impossible_root_depth_is_one_sentence(value: Any, message: str) -> None:
    with pytest.raises(PoseZooError, match=message):
        parse_root_depth(value, None)


def test_numbers_may_come_as_text() -> None:
    assert parse_root_depth("4500", None) == 4500.0
    assert parse_root_depth("truth", None) == "truth"


def test_training_needs_no_truth_and_keeps_the_gradient_in_the_coordinates() -> None:
    estimator = tiny(root_depth="truth").train()
    prediction = estimator.estimate(batch_of(labels="2d"))
    assert not prediction.joints3d.requires_grad
    assert prediction.aux["coords"].requires_grad


# ---------------------------------------------------------------- RootNet as the source


@pytest.fixture
def rootnet(tmp_path: Path) -> Path:
    from posezoo.zoo import save_model

    torch.manual_seed(1)
    return save_model(RootNet("resnet10_w8", "hemlets18", 64, width=16), tmp_path / "rootnet")


def test_rootnet_gives_the_depth(rootnet: Path) -> None:
    batch = batch_of()
    estimator = tiny(root_depth="rootnet", rootnet=str(rootnet)).eval()
    found = estimator.estimate(batch)
    assert found.root_depth_source == "RootNet"
    expected = estimator._load_rootnet().estimate(batch).joints3d[:, 0, 2]
    torch.testing.assert_close(found.joints3d[:, 0, 2], expected)
    assert not any("rootnet" in key for key in estimator.state_dict())


def test_a_rootnet_that_does_not_fit_is_refused(rootnet: Path, tmp_path: Path) -> None:
    from posezoo.zoo import save_model

    with pytest.raises(PoseZooError, match="image_size"):
        tiny(image_size=128, root_depth="rootnet", rootnet=str(rootnet)).setup("test")
    other = save_model(tiny(), tmp_path / "other")
    with pytest.raises(PoseZooError, match="not a RootNet"):
        tiny(root_depth="rootnet", rootnet=str(other)).setup("test")
    with pytest.raises(PoseZooError, match="no file"):
        tiny(root_depth="rootnet", rootnet="gone/rootnet.ckpt").setup("test")


# ---------------------------------------------------------------- flip test, conventions, schedule


@pytest.mark.parametrize("convention", ["clean", "official"])
def test_the_flip_test_averages_coordinates(convention: str) -> None:
    batch = batch_of()
    estimator = tiny(convention=convention).eval()
    for layer in estimator.network.modules():  # heads start at zero: make them say something
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(layer.weight)
    estimator.network.head.conv.weight.data *= 3
    mirrored = cast(Any, dict(batch)) | {"image": batch["image"].flip(-1)}
    with torch.no_grad():
        found, flipped = estimator.estimate(batch), estimator.estimate(mirrored)
        plain = estimator.network(batch["image"]).coords
    assert (found.aux["coords"] - plain).abs().max() == 0
    assert plain.std() > 0.02
    # What the average says of the mirrored crop is the mirror image of what it says of the crop.
    expected = found.joints2d[:, list(HEMLETS18.partner)] * torch.tensor([-1.0, 1]) + torch.tensor([63.0, 0])
    torch.testing.assert_close(flipped.joints2d, expected, atol=2e-3, rtol=0)
    alone = estimator.convention.to_pixels(plain[..., :2], 64)
    assert (found.joints2d - alone).abs().max() > 0.1


def test_weights_of_the_other_convention_are_refused() -> None:
    official = tiny(convention="official").state_dict()
    with pytest.raises(PoseZooError, match=r"set --model.convention official"):
        tiny().load_state_dict(official)
    tiny(convention="official").load_state_dict(official)
    with pytest.raises(PoseZooError, match="convention"):
        tiny(convention="oficial")


def test_the_published_schedule() -> None:
    optimizer, schedule = tiny().default_optimizer(300)
    assert schedule is not None
    rates = []
    for _ in range(300):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[269] == pytest.approx(1e-3)
    assert rates[270] == pytest.approx(1e-4)
    assert rates[289] == pytest.approx(1e-4)
    assert rates[290] == pytest.approx(1e-5)


@pytest.mark.parametrize("skeleton", ["h36m17", "mpi_inf_3dhp_17", "muco21", "smpl24"])
def test_any_skeleton_with_a_root(skeleton: str) -> None:
    found = estimate(batch_of(skeleton=skeleton), skeleton=skeleton)
    assert found.joints3d.shape == (3, len(get_skeleton(skeleton)), 3)
    assert found.joints3d.isfinite().all()


def test_it_overfits_a_batch() -> None:
    batch = batch_of(batch_size=2)
    batch["joints2d"] = batch["joints2d"].clamp(4, 60)
    estimator = tiny(stride=16, deconvs=2, width=32).train()
    optimizer = torch.optim.Adam(estimator.parameters(), lr=5e-3)
    losses = []
    for _ in range(60):
        loss = estimator.losses(estimator.estimate(batch), batch)["volume"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_mixed_precision_leaves_depth_and_coordinates_exact() -> None:
    estimator, batch = tiny().eval(), batch_of()
    batch["crop_to_image"] = batch["crop_to_image"] * torch.tensor([0.713, 0.713, 1.0])[:, None]
    plain, spans = estimator.estimate(batch), estimator.depth_range(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(estimator.depth_range(batch), spans)
        found = estimator.estimate(batch)
        loss = estimator.losses(found, batch)["volume"]
    assert {found.joints3d.dtype, found.joints2d.dtype, found.scores.dtype, loss.dtype} == {torch.float32}
    torch.testing.assert_close(found.joints2d, plain.joints2d, atol=0.05, rtol=0)  # px; the network itself is in bf16
