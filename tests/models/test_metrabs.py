"""MeTRAbs: decoding, losses and schedule by hand, golden values of the authors' code, and training behaviour."""

import copy
import json
from importlib import util
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from posezoo.errors import PoseZooError
from posezoo.models import MeTRAbs
from posezoo.models.backbones import Backbone, batch_norms
from posezoo.models.base import load_estimator
from posezoo.models.metrabs import MeTRAbsNetwork, ModernLosses, PaperLosses, two_phase_decay
from posezoo.models.metrabs.losses import PROFILES, LossContext, aligned_2d, masked_mean
from posezoo.structures import Batch, Prediction
from posezoo.testing import synthetic_batch

TINY: dict[str, Any] = {"backbone": "resnet10_w8", "image_size": 64, "stride": 16}
METRES_PER_PX = 2200 / 256 / 1000
BOTH = pytest.mark.parametrize("profile", ["paper", "modern"])


def network(joints: int = 3, side: int = 256, stride: int = 32, centered: bool = True) -> MeTRAbsNetwork:
    return MeTRAbsNetwork(Backbone("resnet10_w8", stride, centered_stride=centered), joints, side).eval()


def logits(net: MeTRAbsNetwork, cells: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """(head output of zeros, its 2D part [1, J, H, W], its 3D part [1, D, J, H, W]); the parts are views."""
    joints, bins = net.num_joints, net.depth_bins
    whole = torch.zeros(1, joints * (1 + bins), cells, cells)
    return whole, whole[:, :joints], whole[:, joints:].view(1, bins, joints, cells, cells)


def join(*batches: Batch) -> Batch:
    return {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}  # type: ignore[literal-required,return-value]


def trained(estimator: MeTRAbs, steps: int) -> MeTRAbs:
    """As loaded from a file written after `steps` steps."""
    state = estimator.state_dict()
    state["steps_trained"] = torch.tensor(steps)
    estimator.load_state_dict(state)
    return estimator


# ---------------------------------------------------------------- decoding


@pytest.mark.parametrize(("side", "stride"), [(256, 32), (256, 16), (256, 4), (384, 32), (64, 8)])
def test_a_uniform_heatmap_is_the_centre(side: int, stride: int) -> None:
    net = network(side=side, stride=stride)
    heads = net.decode(logits(net, side // stride)[0])
    torch.testing.assert_close(heads.coords2d, torch.full((1, 3, 2), side / 2))
    torch.testing.assert_close(heads.coords3d, torch.full((1, 3, 3), 1100.0), atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    ("cell", "pixel", "metric"),
    [
        ((0, 0, 0), (16, 16), (137.5, 137.5, 0)),
        ((7, 7, 7), (240, 240), (2062.5, 2062.5, 2200)),
        ((3, 2, 5), (176, 80), (1512.5, 687.5, 942.857)),
    ],
)
def test_a_peak_decodes_to_its_cell(cell: tuple[int, ...], pixel: tuple[float, ...], metric: tuple[float, ...]) -> None:
    net = network()
    whole, flat, volume = logits(net)
    d, h, w = cell
    flat[0, 1, h, w] = 1000
    volume[0, d, 1, h, w] = 1000
    heads = net.decode(whole)
    torch.testing.assert_close(heads.coords2d[0, 1], torch.tensor(pixel, dtype=torch.float32))
    torch.testing.assert_close(heads.coords3d[0, 1], torch.tensor(metric, dtype=torch.float32), atol=1e-3, rtol=0)
    torch.testing.assert_close(heads.coords2d[0, 2], torch.tensor([128.0, 128.0]))  # the other joints stay


def test_stride_four_reaches_nearly_to_the_edge() -> None:
    net = network(stride=4)
    whole, flat, volume = logits(net, 64)
    flat[0, 0, 0, 0] = flat[0, 1, -1, -1] = 1000
    volume[0, 0, 0, 0, 0] = volume[0, 0, 1, -1, -1] = 1000
    heads = net.decode(whole)
    assert heads.coords2d[0, :2].tolist() == [[2, 2], [254, 254]]
    assert heads.coords3d[0, :2, 0].tolist() == pytest.approx([17.1875, 2182.8125])


def test_positions_between_cells_are_weighted_means() -> None:
    net = network()
    whole, flat, volume = logits(net)
    flat[0, 0] = -1000
    flat[0, 0, 3, 2:4] = torch.tensor([1.0, 3.0]).log()
    volume[0, 0, 0, 0, 0] = flat[0, 1, 0, 0] = 10
    flat[0, 2, 0, 0] = 8
    heads = net.decode(whole)
    torch.testing.assert_close(heads.coords2d[0, 0], torch.tensor([104.0, 112.0]))
    assert heads.coords2d[0, 1, 0] == pytest.approx(16.3245, abs=1e-4)
    assert heads.coords3d[0, 0, 2] == pytest.approx(24.989, abs=1e-3)
    assert heads.coords2d[0, 2, 0] == pytest.approx(18.3548, abs=1e-4)


def test_depth_is_the_slow_channel() -> None:
    net = network()
    nn.init.zeros_(net.head.weight)
    nn.init.zeros_(net.head.bias)
    net.head.bias.data[3 + 6 * 3 + 1] = 1000
    heads = net(torch.zeros(1, 3, 256, 256, dtype=torch.uint8))
    torch.testing.assert_close(heads.coords3d[0, :, 2], torch.tensor([1100, 1885.714, 1100]), atol=2e-3, rtol=0)
    torch.testing.assert_close(heads.coords3d[0, :, :2], torch.full((3, 2), 1100.0), atol=2e-3, rtol=0)
    torch.testing.assert_close(heads.coords2d, torch.full((1, 3, 2), 128.0))


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("side", "stride", "centered"), [(256, 32, True), (256, 32, False), (256, 16, True), (384, 32, True)]
)
def test_decoding_equals_the_authors_code(golden: Any, side: int, stride: int, centered: bool) -> None:
    data = golden("camera")
    net = network(side=side, stride=stride, centered=centered)
    volume = torch.from_numpy(data["head.logits3d"]).transpose(1, 2).flatten(1, 2)  # depth slow
    heads = net.decode(torch.cat([torch.from_numpy(data["head.logits2d"]), volume], 1))
    # The golden maps have 8 cells at every stride: a narrower range than the crop's at other strides than 32.
    cells = data["head.logits2d"].shape[-1]
    last = (side - 1) // stride * stride
    unit = (heads.coords2d - net.backbone.offset) / ((cells - 1) * stride)
    name = f"side{side}_stride{stride}_centered{int(centered)}.metrabs"
    expected = torch.from_numpy(data[f"head.exp.image_{name}"])
    torch.testing.assert_close(unit * last + net.backbone.offset, expected, atol=1e-3, rtol=0)
    if cells == side // stride:
        torch.testing.assert_close(heads.coords2d, expected, atol=1e-3, rtol=0)
        metric = torch.from_numpy(data[f"head.exp.metric_{name}"])
        torch.testing.assert_close(heads.coords3d, metric, atol=0.01, rtol=0)


def test_decoding_is_float32_whatever_the_logits_and_autocast() -> None:
    net = network()
    maps = torch.randn(2, 27, 8, 8, generator=torch.Generator().manual_seed(0)) * 5
    expected = net.decode(maps.bfloat16().float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = net.decode(maps.bfloat16())
    for name in ("coords2d", "coords3d", "scores"):
        assert getattr(found, name).dtype == torch.float32
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=1e-3, rtol=1e-5)


def test_a_frozen_backbone_decodes_with_its_own_grid() -> None:
    net = MeTRAbsNetwork(Backbone("resnet10_w8", 16, stride_test=8), 3, 64).train()
    image = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    nn.init.zeros_(net.head.weight)
    nn.init.zeros_(net.head.bias)
    net.backbone.eval()
    torch.testing.assert_close(net(image).coords2d, torch.full((1, 3, 2), 32.0))


@pytest.mark.shared_data
def test_network_equals_the_official_one(shared: Path, golden: Any) -> None:
    """Stand-in weights with the official names; both tables list the layers in forward order."""
    folder = shared / "golden" / "official"
    spec = util.spec_from_file_location("state_dict_from_table", folder / "state_dict_from_table.py")
    assert spec is not None
    assert spec.loader is not None
    maker = util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    state = maker.make(json.loads((folder / "metrabs_effv2s_j24.json").read_text()))
    data = golden("official/metrabs_effv2s_j24")
    image = torch.from_numpy(_official_input())

    for variant, centered in (("centered", True), ("legacy256", False)):
        net = MeTRAbsNetwork(Backbone("tf_efficientnetv2_s", centered_stride=centered), 24).eval()
        ours = [key for key in net.state_dict() if not key.startswith("head.")] + ["head.weight", "head.bias"]
        net.load_state_dict(dict(zip(ours, state.values(), strict=True)))
        # Released 256 px models were trained without centring, yet decoded with it.
        shift = 0 if centered else 16
        with torch.no_grad():
            features, heads = net.backbone(image), net(image)
        sample = torch.from_numpy(data[f"{variant}.features_sample"])
        torch.testing.assert_close(features[:, ::40], sample, atol=1e-4 * float(sample.std()), rtol=1e-4)
        pixels, metric = (torch.from_numpy(data[f"{variant}.{key}"]) for key in ("coords2d", "coords3d"))
        torch.testing.assert_close(heads.coords2d + shift, pixels, atol=0.01, rtol=0)
        moved = heads.coords3d + torch.tensor([shift, shift, 0]) * (2200 / 256)
        torch.testing.assert_close(moved, metric, atol=0.1, rtol=0)


def _official_input() -> Any:
    import numpy as np

    return np.random.default_rng(7).random((2, 3, 256, 256), dtype=np.float32)


# ---------------------------------------------------------------- losses


def context(step: int = 0, stride: int = 32) -> LossContext:
    return LossContext(step, root=0, image_size=256, mm_per_px=2200 / 256, stride=stride, window=(24.0, 232.0))


def labelled(pose: Tensor, depth: float = 4000.0) -> Batch:
    """One sample with all labels: a person in front of a camera of 500 px."""
    truth = (pose.float() + torch.tensor([0.0, 0.0, depth]))[None]
    batch = synthetic_batch(1, image_size=256)
    batch["intrinsics"] = torch.tensor([[[500.0, 0, 128], [0, 500, 128], [0, 0, 1]]])
    batch["joints3d"] = truth
    pixels = truth @ batch["intrinsics"].mT
    batch["joints2d"] = pixels[..., :2] / pixels[..., 2:]
    return batch


def predicted(batch: Batch, *, absolute: Any = 0.0, head: Any = 0.0, pixels: Any = 0.0) -> Prediction:
    """The truth plus errors: of the absolute pose, of the metric head (mm), of the 2D head (px)."""
    joints3d = batch["joints3d"] + torch.as_tensor(absolute)
    coords3d = batch["joints3d"] - batch["joints3d"][:, :1] + 1100 + torch.as_tensor(head)
    coords2d = batch["joints2d"] + torch.as_tensor(pixels)
    tensors = [tensor.clone().requires_grad_() for tensor in (joints3d, coords3d, coords2d)]
    aux = {"coords3d": tensors[1], "coords2d": tensors[2]}
    return Prediction(tensors[0], tensors[1], tensors[2], torch.ones(joints3d.shape[:2]), "test", aux)


def all_but_root(offset: tuple[float, float, float]) -> Tensor:
    error = torch.tensor(offset).repeat(17, 1)
    error[0] = 0
    return error


def test_paper_losses_by_hand(pose: Tensor) -> None:
    batch, losses = labelled(pose), PaperLosses(5000, None)

    def terms(**errors: Any) -> dict[str, float]:
        found = losses.terms(predicted(batch, **errors), batch, context(5001))
        return {key: value.item() for key, value in found.items()}

    assert terms(head=all_but_root((30, 0, -60)))["relative"] == pytest.approx(0.0282353, abs=1e-6)  # 16/17 * 90/3
    assert terms(head=torch.tensor([5.0, 6, 7]))["relative"] == pytest.approx(0, abs=1e-6)  # the origin is free
    assert terms(pixels=torch.tensor([3.0, -4]))["heatmap2d"] == pytest.approx(0.0300781, abs=1e-6)
    away = terms(absolute=torch.tensor([0.0, 0, 300]))
    assert away["absolute"] == pytest.approx(0.1, abs=1e-6)
    assert away["relative"] == pytest.approx(0, abs=1e-6)
    assert away["weak2d"] == away["weak3d"] == 0


def test_paper_losses_of_2d_labels_by_hand(pose: Tensor) -> None:
    batch, losses = labelled(pose), PaperLosses(5000, None)
    batch["valid3d"] = torch.zeros_like(batch["valid3d"])
    found = losses.terms(predicted(batch, pixels=torch.tensor([3.0, -4])), batch, context(5001))
    assert found["weak2d"].item() == pytest.approx(0.0300781, abs=1e-6)
    assert [found[key].item() for key in ("relative", "heatmap2d", "absolute")] == [0, 0, 0]

    # The metric head's x and y may be anywhere and of any size.
    prediction = predicted(batch)
    prediction.aux["coords3d"] = torch.cat([batch["joints2d"] * 20 + 77, torch.rand(1, 17, 1)], -1)
    assert losses.terms(prediction, batch, context())["weak3d"].item() < 2e-5 * METRES_PER_PX


def test_alignment_is_a_shift_and_a_scale() -> None:
    target = torch.rand(4, 17, 2, generator=torch.Generator().manual_seed(0)) * 256
    valid = torch.ones(4, 17, dtype=torch.bool)
    valid[:, 5:] = torch.rand(4, 12, generator=torch.Generator().manual_seed(1)) > 0.5
    shift = torch.tensor([5.0, -7])
    torch.testing.assert_close(aligned_2d(2 * target + shift, target, valid), target, atol=1e-4, rtol=0)
    spoilt = torch.where(valid[..., None], 2 * target + shift, 1e5)  # invalid joints take no part
    torch.testing.assert_close(aligned_2d(spoilt, target, valid)[valid], target[valid], atol=1e-4, rtol=0)
    mirrored = aligned_2d(target * torch.tensor([-1.0, 1]), target, valid)
    assert (mirrored - target)[valid].abs().mean() > 30


def test_modern_losses_by_hand(pose: Tensor) -> None:
    flat = pose.clone()
    flat[:, 2] = 0  # all joints at one depth
    batch, losses = labelled(flat), ModernLosses(5000, None)

    def terms(batch: Batch, **errors: Any) -> dict[str, float]:
        found = losses.terms(predicted(batch, **errors), batch, context(5001))
        return {key: value.item() for key, value in found.items()}

    # About the mean, 16 joints are off by d / 17 and the root by 16 d / 17, |d| = 30 + 60: 2 * 16 / 17 * 90 / 51 mm.
    found = terms(batch, absolute=all_but_root((30, 0, -60)))
    assert found["relative"] == pytest.approx(2 * 16 / 17 * 90 / 51 / 1000, abs=1e-6)

    moved = terms(batch, absolute=torch.tensor([30.0, 0, 0]))
    assert moved["relative"] == pytest.approx(0, abs=1e-6)
    assert moved["projection"] == pytest.approx(500 * 30 / 4000 / 2 * METRES_PER_PX, abs=1e-6)
    assert moved["absolute"] == pytest.approx(2 * 15 / 3 / 1000, abs=1e-6)

    away = torch.tensor([0.0, 0, 60])
    assert terms(batch, absolute=away)["absolute"] == pytest.approx(60 / 3 / 1000, abs=1e-6)
    distant = labelled(flat, 20_000.0)  # beyond 10 m, depth errors count in proportion
    assert terms(distant, absolute=away)["absolute"] == pytest.approx(0.5 * 60 / 3 / 1000, abs=1e-6)


def test_modern_projection_counts_what_can_be_seen(pose: Tensor) -> None:
    losses = ModernLosses(0, None)

    def projection(batch: Batch, prediction: Prediction) -> Tensor:
        return losses.terms(prediction, batch, context(1))["projection"]

    batch = labelled(pose)
    batch["joints3d"][0, 3, 2] = 250.0  # a label nearer than 300 mm
    prediction = predicted(labelled(pose), absolute=torch.tensor([10.0, 0, 0]))
    (gradient,) = torch.autograd.grad(projection(batch, prediction), prediction.joints3d)
    assert gradient[0, 3].tolist() == [0, 0, 0]
    assert gradient[0, 4].abs().sum() > 0

    batch = labelled(pose)
    prediction = predicted(batch, absolute=torch.tensor([10.0, 0, 0]))
    with torch.no_grad():
        prediction.joints3d[0, 1, 2] = -500  # behind the camera
        prediction.joints3d[0, 2, 2] = 0
        prediction.joints3d[0, 4, 0] = 3000  # out of view: a predicted pixel beyond the window
    batch["joints2d"][0, 5] = torch.tensor([128.0, 256 + 641])  # a label more than 20 cells outside
    loss = projection(batch, prediction)
    assert loss.isfinite()
    (gradient,) = torch.autograd.grad(loss, prediction.joints3d)
    assert gradient.isfinite().all()
    assert gradient[0, [1, 2, 4, 5]].abs().sum() == 0
    assert gradient[0, 7].abs().sum() > 0


@BOTH
def test_guessed_cameras_take_no_part_in_the_absolute_loss(pose: Tensor, profile: str) -> None:
    batch, losses = labelled(pose), PROFILES[profile](0, None)
    batch["has_camera"] = torch.tensor([False])
    found = losses.terms(predicted(batch, absolute=torch.tensor([0.0, 0, 300])), batch, context(1))
    assert found["absolute"] == 0
    assert found["absolute"].requires_grad


@BOTH
def test_the_absolute_loss_waits_for_its_start(pose: Tensor, profile: str) -> None:
    batch, losses = labelled(pose), PROFILES[profile](10, None)
    prediction = predicted(batch, absolute=torch.tensor([0.0, 0, 300]))
    before, after = (losses.terms(prediction, batch, context(step))["absolute"] for step in (10, 11))
    assert before == 0
    assert before.requires_grad
    assert after > 0


def test_weights_of_the_terms() -> None:
    paper, modern = PaperLosses(0, None), ModernLosses(0, None)
    assert paper.weights == {"relative": 1, "heatmap2d": 1, "absolute": 1, "weak2d": 0.1, "weak3d": 0.1}
    assert modern.weights == {"relative": 1, "projection": 1, "absolute": 0.1, "weak2d": 0.2}
    assert ModernLosses(0, 0.7).weights["absolute"] == 0.7
    estimator = MeTRAbs(**TINY, profile="paper", absolute_weight=0.0)
    assert estimator.loss_weights()["absolute"] == 0


def test_masked_mean() -> None:
    values = torch.tensor([1.0, torch.nan, 4.0], requires_grad=True)
    mean = masked_mean(values, torch.tensor([True, False, True]))
    mean.backward()  # type: ignore[no-untyped-call]
    assert mean == 2.5
    assert values.grad is not None
    assert values.grad.tolist() == [0.5, 0, 0.5]
    empty = masked_mean(values, torch.zeros(3, dtype=torch.bool))
    assert empty == 0
    assert empty.requires_grad


@BOTH
@pytest.mark.parametrize("labels", ["3d", "2d", "none"])
def test_batches_without_labels_of_a_kind_give_connected_zeros(profile: Any, labels: str) -> None:
    estimator = MeTRAbs(**TINY, profile=profile, absolute_start=-1).train()
    batch = synthetic_batch(3, labels=labels)
    terms = estimator.losses(estimator.estimate(batch), batch)
    assert set(terms) == set(estimator.loss_weights())
    for term in terms.values():
        assert term.isfinite()
        assert term.requires_grad
    silent = {"3d": {"weak2d", "weak3d"}, "2d": {"relative", "heatmap2d", "projection", "absolute"}, "none": set(terms)}
    assert {key for key, term in terms.items() if term == 0} >= silent[labels] & set(terms)
    torch.stack(list(terms.values())).sum().backward()
    for name, parameter in estimator.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@BOTH
def test_masked_entries_have_no_gradient(profile: str) -> None:
    batch = join(synthetic_batch(2, image_size=256), synthetic_batch(2, image_size=256, labels="2d", seed=1))
    batch["valid3d"][0, 5:] = False
    batch["valid2d"][:, 5:] = False
    for name in ("joints3d", "joints2d"):
        batch[name] *= batch[f"valid{name[-2:]}"][..., None]  # type: ignore[literal-required]
    prediction = predicted(batch)
    with torch.no_grad():
        for tensor in (prediction.joints3d, *prediction.aux.values()):
            tensor += 20 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0))
    terms = PROFILES[profile](0, None).terms(prediction, batch, context(1))
    inputs = [prediction.joints3d, *prediction.aux.values()]
    gradients = torch.autograd.grad(sum(terms.values()), inputs, allow_unused=True)
    found = [gradient for gradient in gradients if gradient is not None]
    assert found
    for gradient in found:
        assert gradient.isfinite().all()
        assert gradient[0, 5:].abs().sum() == 0
        assert gradient[2:, 5:].abs().sum() == 0
        assert gradient[0, :5].abs().sum() > 0


# ---------------------------------------------------------------- schedule


@pytest.mark.parametrize(
    ("progress", "rate"),
    [(0, 1e-4), (0.46, 5.7735e-5), (0.92 - 1e-9, 3.3333e-5), (0.92, 3.3333e-6), (0.96, 1.8257e-6), (1, 1e-6)],
)
def test_schedule(progress: float, rate: float) -> None:
    steps = 112_500
    step = int(progress * steps)  # 0.92 T is a whole number
    assert 1e-4 * two_phase_decay(steps)(step) == pytest.approx(rate, rel=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_schedule_of_the_shortest_runs(steps: int) -> None:
    factors = [two_phase_decay(steps)(step) for step in range(steps + 2)]
    assert factors[0] == 1
    assert factors == sorted(factors, reverse=True)


@pytest.mark.parametrize(
    ("profile", "steps", "rate", "decay"), [("paper", 112_500, 1e-4, 0.0894427), ("modern", 400_000, 2.121e-4, 0.0224)]
)
def test_optimiser(profile: Any, steps: int, rate: float, decay: float) -> None:
    estimator = MeTRAbs(**TINY, profile=profile)
    optimizer, schedule = estimator.default_optimizer(steps)
    (group,) = optimizer.param_groups
    assert isinstance(optimizer, torch.optim.AdamW)
    assert group["weight_decay"] == pytest.approx(decay, abs=5e-5)
    assert (group["eps"], group["betas"]) == (1e-8, (0.9, 0.999))
    assert schedule.get_last_lr() == [rate]


# ---------------------------------------------------------------- the estimator


def test_paper_profile_forwards_2d_samples_separately() -> None:
    estimator = MeTRAbs(**TINY, profile="paper").train()
    twin = copy.deepcopy(estimator)
    three, two = synthetic_batch(3), synthetic_batch(3, labels="2d", seed=1)
    order = torch.tensor([3, 0, 4, 1, 2, 5])
    mixed = {key: value[order] for key, value in join(three, two).items()}  # type: ignore[attr-defined]

    found = estimator.estimate(mixed)  # type: ignore[arg-type]
    with torch.no_grad():
        first, second = twin.network(three["image"]), twin.network(two["image"])

    torch.testing.assert_close(found.joints2d, torch.cat([first.coords2d, second.coords2d])[order])
    torch.testing.assert_close(found.aux["coords3d"], torch.cat([first.coords3d, second.coords3d])[order])
    for a, b in zip(batch_norms(estimator), batch_norms(twin), strict=True):
        torch.testing.assert_close(a.running_mean, b.running_mean)
        assert a.num_batches_tracked == 2


def test_modern_profile_forwards_once() -> None:
    estimator = MeTRAbs(**TINY).train()
    estimator.estimate(join(synthetic_batch(2), synthetic_batch(2, labels="2d")))
    assert next(batch_norms(estimator)).num_batches_tracked == 1


@BOTH
def test_aux_is_for_training_only(profile: Any) -> None:
    estimator, batch = MeTRAbs(**TINY, profile=profile), synthetic_batch()
    assert set(estimator.train().estimate(batch).aux) == {"coords2d", "coords3d"}
    assert estimator.eval().estimate(batch).aux == {}


@BOTH
def test_prediction_keeps_the_contract(profile: Any) -> None:
    estimator = trained(MeTRAbs(**TINY, profile=profile, skeleton="mpi_inf_3dhp_17"), 1000).eval()
    batch = synthetic_batch(2, "mpi_inf_3dhp_17")
    with torch.no_grad():
        prediction = estimator.estimate(batch)
    assert prediction.joints3d.shape == prediction.joints3d_rel.shape == (2, 17, 3)
    assert prediction.joints3d_rel[:, 14].abs().sum() == 0  # the pelvis of that skeleton
    assert prediction.scores.min() >= 0
    assert prediction.scores.max() <= 1
    assert prediction.root_depth_source == "metric reconstruction (full perspective)"


def test_mix_is_drawn_for_each_sample_in_training_only() -> None:
    estimator, batch = trained(MeTRAbs(**TINY), 1000), synthetic_batch(1)
    batch = join(*[batch] * 8)
    for layer in batch_norms(estimator):
        layer.momentum = 0.0
    with torch.no_grad():
        in_training, in_evaluation = estimator.train().estimate(batch).joints3d, estimator.eval().estimate(batch)
    assert len(in_training[:, 0].unique(dim=0)) == 8
    torch.testing.assert_close(in_evaluation.joints3d, in_evaluation.joints3d[:1].expand(8, -1, -1))


@pytest.mark.parametrize(
    ("arguments", "window"),
    [
        ({"profile": "modern"}, (24, 232)),
        ({"profile": "paper"}, (32, 224)),
        ({"profile": "modern", "centered_stride": False}, (8, 216)),
        ({"profile": "modern", "stride_test": 4}, (24, 232)),
        ({"profile": "modern", "image_size": 384}, (24, 360)),
        ({"profile": "modern", "backbone": "convnext_atto", "centered_stride": False}, (23.5, 231.5)),
    ],
)
def test_the_trusted_window_lies_around_the_cells(arguments: dict[str, Any], window: tuple[float, float]) -> None:
    assert MeTRAbs(**{"backbone": "resnet10_w8", "image_size": 256} | arguments).window == window


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"profile": "papers"}, "Unknown profile 'papers': did you mean paper"),
        ({"perspective": "strong"}, "Unknown perspective 'strong': choose from full, weak"),
        ({"skeleton": "coco17"}, "coco17 has no pelvis"),
    ],
)
def test_mistakes_are_one_sentence(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(PoseZooError, match=message):
        MeTRAbs(**TINY, **arguments)


# ---------------------------------------------------------------- weak, then full perspective


@pytest.mark.parametrize(("steps", "kind"), [(0, "weak"), (499, "weak"), (500, "full")])
def test_loaded_weights_go_on_with_their_perspective(steps: int, kind: str) -> None:
    estimator = trained(MeTRAbs(**TINY), steps).eval()
    assert kind in estimator.estimate(synthetic_batch()).root_depth_source

    wrapped = nn.ModuleDict({"model": MeTRAbs(**TINY)})  # as an averaging or compiling wrapper does
    wrapped.load_state_dict({f"model.{key}": value for key, value in estimator.state_dict().items()})
    assert kind in wrapped["model"].eval()(synthetic_batch()).root_depth_source


def test_the_papers_weak_perspective_is_kept() -> None:
    estimator = trained(MeTRAbs(**TINY, perspective="weak"), 10_000)
    assert "weak" in estimator.estimate(synthetic_batch()).root_depth_source


class Recorder(pl.Callback):
    """What the reconstruction was in every training and validation batch."""

    def __init__(self) -> None:
        self.training: list[str] = []
        self.validation: list[str] = []

    def on_train_batch_start(self, trainer: Any, module: MeTRAbs, batch: Batch, batch_idx: int) -> None:
        self.norms = [layer.training for layer in batch_norms(module)]

    def on_validation_batch_end(self, trainer: Any, module: Any, outputs: Prediction, *rest: Any) -> None:
        self.validation.append(outputs.root_depth_source.split("(")[1].split()[0])


def fit(estimator: MeTRAbs, steps: int, folder: Path, **options: Any) -> tuple[pl.Trainer, Recorder]:
    recorder = Recorder()
    data: Any = DataLoader([synthetic_batch(2)] * 50, batch_size=None)  # type: ignore[arg-type]
    trainer = pl.Trainer(
        max_steps=steps,
        val_check_interval=1,
        limit_val_batches=1,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=[recorder],
    )
    trainer.fit(estimator, data, data, **options)
    return trainer, recorder


@pytest.mark.filterwarnings("ignore")
def test_fit_switches_saves_loads_and_resumes(tmp_path: Path) -> None:
    estimator = MeTRAbs(**TINY, weak_steps=2)
    trainer, recorder = fit(estimator, 3, tmp_path)
    assert recorder.validation == ["weak", "full", "full"]  # after 1, 2 and 3 steps
    path = tmp_path / "last.ckpt"
    trainer.save_checkpoint(path)

    checkpoint = torch.load(path, weights_only=True)
    assert int(checkpoint["state_dict"]["steps_trained"]) == 3
    plain = (str, int, float, bool, list, dict, type(None))
    assert all(isinstance(value, plain) for value in checkpoint["hyper_parameters"].values())
    assert not {"optimizer", "lr_scheduler", "backbone_weights"} & set(checkpoint["hyper_parameters"])

    loaded = load_estimator(path).eval()
    batch = synthetic_batch(2, seed=5)
    with torch.no_grad():
        found, expected = loaded.estimate(batch), estimator.eval().estimate(batch)
    assert isinstance(loaded, MeTRAbs)
    assert found.root_depth_source == expected.root_depth_source
    torch.testing.assert_close(found.joints3d, expected.joints3d)

    _, recorder = fit(MeTRAbs(**TINY, weak_steps=4), 5, tmp_path, ckpt_path=path)
    assert recorder.validation[-2:] == ["full", "full"]


@pytest.mark.filterwarnings("ignore")
def test_batch_norm_is_frozen_at_the_end(tmp_path: Path) -> None:
    estimator = MeTRAbs(**TINY, freeze_bn_steps=2)
    fit(estimator, 5, tmp_path)
    assert next(batch_norms(estimator)).num_batches_tracked == 3


# ---------------------------------------------------------------- flip


def test_the_whole_network_commutes_with_a_camera_flip() -> None:
    """Mirror-symmetric weights, a head that treats left as right, and a person inside a wide empty margin."""
    estimator = trained(MeTRAbs(backbone="resnet10_w8"), 1000).eval()
    generator = torch.Generator().manual_seed(0)
    for module in estimator.modules():
        if isinstance(module, nn.Conv2d):
            weight = torch.randn(module.weight.shape, generator=generator) / module.weight[0].numel() ** 0.5
            module.weight.data = (weight + weight.flip(-1)) / 2
    head = estimator.network.head
    nn.init.zeros_(head.bias)
    maps = head.weight.data.view(9, 17, -1, 1, 1)  # the 2D maps, then one for each depth bin; joints within
    maps += estimator.skeleton.flip(maps, 1)

    batch = synthetic_batch(1, image_size=256)
    image = torch.full((1, 3, 256, 256), 0.5)  # zero behind the normalisation
    image[:, :, 100:150, 90:140] = torch.rand(1, 3, 50, 50, generator=generator)
    mirrored = torch.full_like(image, 0.5)
    mirrored[..., 1:] = image[..., 1:].flip(-1)  # u -> 256 - u about the principal point
    with torch.no_grad():
        head.weight *= 4 / head(estimator.network.backbone(image)).std()  # peaks
        straight = estimator.estimate(batch | {"image": image})  # type: ignore[arg-type,operator]
        flipped = estimator.estimate(batch | {"image": mirrored})  # type: ignore[arg-type,operator]

    swap = estimator.skeleton.flip
    across = torch.tensor([256.0, 0]) + swap(straight.joints2d) * torch.tensor([-1.0, 1])
    assert (straight.joints2d[..., 0] - 128).abs().max() > 5  # not a symmetric answer by itself
    torch.testing.assert_close(flipped.joints2d, across, atol=0.01, rtol=0)
    mirror = torch.tensor([-1.0, 1, 1])
    torch.testing.assert_close(flipped.joints3d_rel, swap(straight.joints3d_rel) * mirror, atol=0.1, rtol=1e-3)
    torch.testing.assert_close(flipped.joints3d, swap(straight.joints3d) * mirror, atol=2, rtol=1e-3)


# ---------------------------------------------------------------- overfitting


def people(pose: Tensor, count: int, side: int, seed: int = 0) -> Batch:
    """Turned copies of a pose at 2.5 to 6 m that fill their crops, on smooth random images."""
    generator = torch.Generator().manual_seed(seed)
    batch = synthetic_batch(count, image_size=side)
    angle = torch.rand(count, generator=generator) * 6.283
    c, s, o, i = angle.cos(), angle.sin(), torch.zeros(count), torch.ones(count)
    turn = torch.stack([c, o, s, o, i, o, -s, o, c], -1).view(count, 3, 3)
    depth = 2500 + 3500 * torch.rand(count, generator=generator)
    joints = pose.float() @ turn.mT + 30 * torch.randn(count, 17, 3, generator=generator)
    joints = joints + torch.stack([o, o, depth], -1)[:, None]
    k = torch.eye(3).repeat(count, 1, 1)
    k[:, 0, 0] = k[:, 1, 1] = side * depth / 2400
    k[:, :2, 2] = side / 2
    pixels = joints @ k.mT
    batch["joints3d"], batch["intrinsics"] = joints, k
    batch["joints2d"] = pixels[..., :2] / pixels[..., 2:]
    noise = torch.rand(count, 3, 8, 8, generator=generator)
    smooth = nn.functional.interpolate(noise, size=side, mode="bicubic").clamp(0, 1)
    batch["image"] = (smooth * 255).to(torch.uint8)
    return batch


def overfit(estimator: MeTRAbs, batch: Batch, steps: int, rate: float) -> tuple[dict[str, float], dict[str, float]]:
    """Loss terms of the first and of the last step."""
    optimizer = torch.optim.AdamW(estimator.parameters(), lr=rate)
    history = []
    for _ in range(steps + 1):
        terms = estimator.train().losses(estimator.estimate(batch), batch)
        history.append({key: term.item() for key, term in terms.items()})
        optimizer.zero_grad()
        torch.stack([estimator.loss_weights()[key] * term for key, term in terms.items()]).sum().backward()
        optimizer.step()
    return history[0], history[-1]


@BOTH
def test_a_small_network_overfits(pose: Tensor, profile: Any) -> None:
    torch.manual_seed(0)
    estimator = MeTRAbs("resnet10_w16", image_size=64, stride=8, profile=profile, absolute_start=10**9)
    first, last = overfit(estimator, people(pose, 8, 64), 50, 2e-3)
    assert sum(last.values()) < 0.25 * sum(first.values())


@pytest.mark.slow
def test_resnet18_overfits_in_25_steps(pose: Tensor) -> None:
    torch.manual_seed(0)
    estimator = MeTRAbs("resnet18", profile="paper", perspective="weak", absolute_start=10**9)
    for layer in batch_norms(estimator):
        nn.init.ones_(layer.weight)  # timm starts the last of each block at 0, which costs dozens of steps from scratch
    first, last = overfit(estimator, people(pose, 12, 256), 25, 3e-4)
    start, end = (terms["relative"] + terms["heatmap2d"] for terms in (first, last))
    assert 0.3 < start < 0.6
    assert end < 0.2 * start
