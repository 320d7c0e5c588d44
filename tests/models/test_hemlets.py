"""HEMlets: triplets (T1-T6, T10 of the dossier), architecture (T11), released weights, labels, learning (T13)."""

import importlib.util
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import default_collate

from posezoo.data.base import read_image
from posezoo.errors import PoseZooError
from posezoo.models import HEMlets
from posezoo.models.backbones import Backbone
from posezoo.models.heads import CONVENTIONS
from posezoo.models.hemlets import (
    HEMletsNetwork,
    Parts,
    encode,
    find_parts,
    load_official,
    part_order,
    polarity,
    read_polarity,
)
from posezoo.models.hemlets.official import from_official
from posezoo.models.hemlets.targets import map_loss
from posezoo.models.volumetric import integral_loss
from posezoo.skeletons import H36M17, HEMLETS18, MPII16
from posezoo.structures import Batch
from posezoo.testing import check_estimator, synthetic_batch

TINY: dict[str, Any] = {
    "backbone": "resnet10_w8",
    "image_size": 64,
    "width": 16,
    "feature_width": 32,
    "depth_bins": 16,
}
PART = Parts(((0, 1),), (0,))
CLEAN, OFFICIAL = CONVENTIONS["clean"], CONVENTIONS["official"]


def tiny(**arguments: Any) -> HEMlets:
    torch.manual_seed(0)
    return HEMlets(**(TINY | arguments))


def batch_of(**arguments: Any) -> Batch:
    return synthetic_batch(**({"batch_size": 3, "skeleton": "hemlets18"} | arguments))


def one_part(child_depth: float, child: tuple[float, float] = (26, 30), states: int = 3) -> tuple[Tensor, Tensor]:
    """(triplet [states, 64, 64], known) of a part from (20, 30) at depth 0, sigma 2, epsilon 50."""
    order = polarity(torch.tensor([[0.0]]), torch.tensor([[child_depth]]), 50.0)
    cells, seen = torch.tensor([[(20.0, 30.0), child]]), torch.ones(1, 2, dtype=torch.bool)
    targets = encode(cells, seen, order, torch.ones(1, 1, dtype=torch.bool), PART, (64, 64), 2.0, states)
    return targets.parts[0, 0], targets.parts_known[0, 0]


# ---------------------------------------------------------------- T1 to T5: triplets


def test_t1_a_child_in_front() -> None:
    negative, zero, positive = one_part(-120.0)[0]
    assert not negative.any()
    assert zero[30, 20] == 1
    assert zero[30, 26] == pytest.approx(0.011109, abs=1e-6)
    assert positive[30, 26] == 1
    assert positive[30, 20] == pytest.approx(0.011109, abs=1e-6)
    for image in (zero, positive):
        assert image.sum().item() == pytest.approx(25.1327, abs=1e-3)
        assert image.square().sum().item() == pytest.approx(12.5664, abs=1e-4)


def test_t2_a_child_behind() -> None:
    front, behind = one_part(-120.0)[0], one_part(120.0)[0]
    assert torch.equal(behind, front.flip(0))


def test_t3_level_ends_share_the_zero_map_by_maximum() -> None:
    negative, zero, positive = one_part(-30.0)[0]
    assert not negative.any()
    assert not positive.any()
    assert zero[30, 20] == zero[30, 26] == 1
    assert zero.sum().item() == pytest.approx(46.7033, abs=1e-3)
    assert zero.square().sum().item() == pytest.approx(24.6147, abs=1e-3)


@pytest.mark.parametrize(("nearer", "expected"), [(50.0, 0), (-50.0, 0), (50.001, 1), (-50.001, -1), (0.0, 0)])
@pytest.mark.parametrize("shift", [0.0, 4000.0])
def test_t4_both_edges_belong_to_the_zero_state(nearer: float, expected: int, shift: float) -> None:
    parent = torch.tensor([shift], dtype=torch.float64)
    order = polarity(parent, parent - nearer, 50.0)
    assert order.dtype == torch.int8
    assert order.item() == expected


def test_t4_magnifying_the_crop_changes_no_label() -> None:
    estimator, batch = tiny(), batch_of()
    order, _ = estimator._order(batch)
    batch["crop_to_image"] = batch["crop_to_image"] * torch.tensor([0.7, 0.7, 1.0])[:, None]
    assert estimator.depth_range(batch).tolist() == pytest.approx([1400.0] * 3, rel=1e-4)
    assert torch.equal(estimator._order(batch)[0], order)
    assert order.unique().tolist() == [-1, 0, 1]


def test_t5_centres_lie_between_cells() -> None:
    cells, seen = torch.tensor([[(20.25, 30.5), (50.0, 50.0)]]), torch.ones(1, 2, dtype=torch.bool)
    none = torch.zeros(1, 1, dtype=torch.bool)
    targets = encode(cells, seen, none.to(torch.int8), none, PART, (64, 64), 2.0)
    assert targets.joints[0, 0, 30, 20].item() == pytest.approx(0.961691, abs=1e-6)
    assert targets.joints[0, 0, 31, 20].item() == pytest.approx(0.961691, abs=1e-6)
    assert not targets.parts.any()


def test_two_states_have_no_zero_map() -> None:
    (negative, positive), known = one_part(-120.0, states=2)
    assert known
    assert not negative.any()
    assert positive[30, 26] == 1
    assert positive[30, 20] < 0.02  # no parent
    assert not one_part(-30.0, states=2)[1]


# ---------------------------------------------------------------- missing and weak labels


def test_a_joint_far_outside_takes_its_parts_along() -> None:
    assert one_part(0.0, (69.0, 30))[1]  # three sigma beyond the last cell
    triplet, known = one_part(0.0, (69.1, 30))
    assert not known
    assert not triplet.any()


def test_labels_come_from_3d_then_from_annotations_then_from_nowhere() -> None:
    parts, batch = find_parts(HEMLETS18), batch_of()
    batch["valid3d"][1] = False
    batch["valid3d"][2, 2] = False  # r_knee: parts 1 and 2
    batch["depth_order"][:] = 1
    batch["depth_order"][1, :3] = torch.tensor([-1, 0, 1], dtype=torch.int8)
    batch["valid_order"][1, :4] = True
    batch["valid_order"][2] = True
    order, known = part_order(batch, parts, 50.0)

    depth = batch["joints3d"][0, :, 2]
    for k, (p, c) in enumerate(parts.pairs):
        nearer = depth[p] - depth[c]
        assert order[0, k] == (0 if nearer.abs() <= 50 else nearer.sign())
    assert known.sum(1).tolist() == [14, 4, 14]
    assert order[1, :4].tolist() == [-1, 0, 1, 1]
    assert order[2, 1:3].tolist() == [1, 1]  # annotated, where 3D is missing
    assert torch.equal(order[2, 3:], part_order(batch_of(), parts, 50.0)[0][2, 3:])  # measured, where it is not

    order, known = part_order(batch, parts, 50.0, weak=False)
    assert known.sum(1).tolist() == [14, 0, 12]
    assert not order[1].any()


def test_a_missing_label_gives_no_gradient_and_zero_is_not_missing() -> None:
    estimator, batch = tiny().train(), batch_of(labels="2d")
    batch["joints2d"][:] = torch.rand(3, 18, 2) * 60
    batch["valid_order"][0, 4] = True  # level, on purpose
    prediction = estimator.estimate(batch)
    terms = estimator.losses(prediction, batch)
    (gradient,) = torch.autograd.grad(terms["triplets"], prediction.aux["maps"])
    touched = estimator.split_maps(gradient)[1].flatten(2).abs().amax(-1) > 0
    assert touched.nonzero().tolist() == [[0, 4]]
    assert estimator.split_maps(gradient)[0].abs().max() == 0


@pytest.mark.parametrize("wrong", [2, -2, 127])
def test_a_wrong_depth_order_is_one_sentence(wrong: int) -> None:
    estimator, batch = tiny().train(), batch_of(labels="2d")
    batch["depth_order"][1, 3] = wrong
    estimator.losses(estimator.estimate(batch), batch)  # where no label is, anything may stand
    batch["valid_order"][1, 3] = True
    with pytest.raises(PoseZooError, match=rf"a label says {wrong}"):
        estimator.losses(estimator.estimate(batch), batch)


def test_on_a_gpu_wrong_depth_orders_are_found_a_little_later() -> None:
    estimator, batch = tiny().train(), batch_of(labels="2d")
    estimator.on_train_batch_start(batch, 0)
    estimator.on_train_epoch_end()
    batch["depth_order"][1, 3], batch["valid_order"][1, 3] = -2, True
    estimator.on_train_batch_start(batch, 3)
    batch["valid_order"][1, 3] = False
    with pytest.raises(PoseZooError, match="the training labels hold something else"):
        estimator.on_train_batch_start(batch, 49)
    with pytest.raises(PoseZooError, match="annotations"):
        estimator.on_train_epoch_end()


def test_parts_are_found_by_name_and_know_their_annotations() -> None:
    assert find_parts(HEMLETS18).pairs == HEMLETS18.parts
    assert find_parts(HEMLETS18).labels == tuple(range(14))
    chosen = find_parts(HEMLETS18, [["neck", "head_top"], ["l_elbow", "l_wrist"]])
    assert chosen.pairs == ((8, 10), (12, 13))
    assert chosen.labels == (-1, 10)
    batch = batch_of(labels="2d")
    batch["valid_order"][:], batch["depth_order"][:, 10] = True, 1
    order, known = part_order(batch, chosen, 50.0)
    assert known[0].tolist() == [False, True]
    assert order[0].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("skeleton", "parts", "message"),
    [
        ("h36m17", None, "hemlets18"),
        ("hemlets18", [["neck", "l_toe"]], "no joint 'l_toe'"),
        ("hemlets18", [["neck"]], "pairs"),
        ("hemlets18", [["neck", "neck"]], "pairs"),
        ("hemlets18", [], "pairs"),
        ("coco17", None, "no pelvis"),
    ],
)
def test_a_skeleton_without_the_parts_is_one_sentence(skeleton: str, parts: Any, message: str) -> None:
    with pytest.raises(PoseZooError, match=message):
        tiny(skeleton=skeleton, parts=parts)


def test_every_part_exists_in_both_datasets() -> None:
    """Joints of the parts exist in MPII, and in Human3.6M with the thorax between the shoulders."""
    ends = {HEMLETS18.joints[j] for pair in HEMLETS18.parts for j in pair}
    assert ends <= set(MPII16.joints)
    assert ends - {"thorax"} <= set(H36M17.joints)
    assert len(ends) == 15


# ---------------------------------------------------------------- T6 and reductions


def spread_out() -> Batch:
    """One person whose 18 joints are well inside a 256 px crop and apart, every child nearer than its parent."""
    batch = batch_of(batch_size=1, image_size=256)
    g = torch.arange(18)
    batch["joints2d"][0] = torch.stack([30 + 45 * (g % 5), 40 + 55 * (g // 5)], 1).float()
    generation = torch.zeros(18)
    for parent, child in sorted(HEMLETS18.parts, key=lambda pair: (pair[0] not in (0, 17), pair[1])):
        generation[child] = generation[parent] + 1
    for parent, child in HEMLETS18.parts * 6:
        generation[child] = generation[parent] + 1
    batch["joints3d"][0, :, 2] = 4000 - 100 * generation
    return batch


def test_t6_losses_are_sums_over_maps_and_means_over_the_batch() -> None:
    estimator, batch = tiny(image_size=256, stride=4, deconvs=1, width=4, feature_width=4), spread_out()
    zeros = torch.zeros(1, 60, 64, 64, requires_grad=True)
    joints, triplets = estimator.split_maps(zeros)
    targets = estimator.map_targets(batch, (64, 64))
    l_2d = map_loss(joints, targets.joints, targets.joints_known)
    l_hem = map_loss(triplets, targets.parts, targets.parts_known)
    assert l_hem.item() == pytest.approx(351.858, abs=0.02)
    assert l_2d.item() == pytest.approx(226.195, abs=0.02)
    weights = estimator.loss_weights()
    assert (weights["triplets"] * l_hem + weights["joint_maps"] * l_2d).item() == pytest.approx(28.9027, abs=2e-3)

    targets.parts_known[0, 6] = False
    masked = map_loss(triplets, targets.parts, targets.parts_known)
    assert (l_hem - masked).item() == pytest.approx(25.1327, abs=1e-3)
    (gradient,) = torch.autograd.grad(masked, zeros)
    silent = estimator.split_maps(gradient)[1].flatten(2).abs().sum(-1)[0] == 0
    assert silent.nonzero().flatten().tolist() == [6]

    twice = [torch.cat([t, t]) for t in (triplets, targets.parts, targets.parts_known)]
    assert map_loss(*twice).item() == pytest.approx(masked.item())  # mean over the batch
    assert map_loss(targets.parts, targets.parts, targets.parts_known) == 0


def test_the_total_is_the_paper_s() -> None:
    estimator, batch = tiny().train(), batch_of()
    estimator.log = estimator.log_dict = lambda *_, **__: None  # type: ignore[assignment,method-assign]
    terms = estimator.losses(estimator.estimate(batch), batch)
    total = estimator.training_step(batch, 0)
    expected = terms["volume"] + 0.05 * (terms["joint_maps"] + terms["triplets"])
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    target, known = estimator.volume_targets(batch)
    coords = estimator.estimate(batch).aux["coords"]
    assert terms["volume"].item() == pytest.approx(integral_loss(coords, target, known).item(), rel=1e-5)
    assert tiny(alpha=0.1, triplet_weight=0.0).loss_weights() == {"joint_maps": 0.1, "triplets": 0.0}


# ---------------------------------------------------------------- T10: mirroring


@pytest.mark.parametrize(("name", "error"), [("clean", 1e-6), ("official", None)])
def test_t10_encoding_and_mirroring_commute(name: str, error: float | None) -> None:
    estimator, batch = tiny(image_size=256, convention=name, stride=4, deconvs=1), spread_out()
    batch["joints3d"][0, :, 2] = 4000 + 100 * torch.randn(18, generator=torch.Generator().manual_seed(3))
    mirrored = cast(Any, dict(batch))
    pixels = batch["joints2d"] * torch.tensor([-1.0, 1]) + torch.tensor([255.0, 0])
    mirrored |= {"joints2d": HEMLETS18.flip(pixels), "joints3d": HEMLETS18.flip(batch["joints3d"])}
    straight, flipped = estimator.map_targets(batch, (64, 64)), estimator.map_targets(mirrored, (64, 64))
    for found, expected in (
        (flipped.joints, HEMLETS18.flip(straight.joints, 1).flip(-1)),
        (flipped.parts, HEMLETS18.flip_parts(straight.parts, 1).flip(-1)),
    ):
        if error is None:  # 0.246 cells off: a peak's flank moves
            assert (found - expected).abs().max() > 0.05
        else:
            assert (found - expected).abs().max() < error


# ---------------------------------------------------------------- T11: architecture


def test_t11_the_released_architecture() -> None:
    with torch.device("meta"):
        network = HEMletsNetwork(Backbone("resnet50", centered_stride=False)).to("meta").train()
        maps, volume = network.maps_and_volume(torch.zeros(2, 3, 256, 256))
    assert maps.shape == (2, 60, 64, 64)
    assert volume.flatten(1, 2).shape == (2, 1152, 64, 64)
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()}
    assert sizes == {
        "backbone": 23_508_032,
        "feature_branch": 12_847_616,
        "map_branch": 10_625_596,
        "encoder": 139_008,
        "tail": 2_494_592,
    }
    assert sum(sizes.values()) == 49_614_844


def test_t11_the_volume_trains_everything() -> None:
    batch = batch_of()
    estimator = tiny().train()
    estimator.losses(estimator.estimate(batch), batch)["volume"].backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in estimator.network.parameters())

    detached = tiny(detach_encoder=True).train()
    detached.losses(detached.estimate(batch), batch)["volume"].backward()
    assert all(p.grad is None for p in detached.network.map_branch.parameters())
    assert detached.network.encoder[0].weight.grad is not None


def test_it_keeps_the_contract() -> None:
    check_estimator(HEMlets, **TINY, stride=32)


def test_variants_keep_the_contract() -> None:
    parts = [["pelvis", "neck"], ["l_elbow", "l_wrist"]]
    check_estimator(
        HEMlets, **TINY, stride=32, polarity_states=2, parts=parts, skeleton="h36m17", convention="official"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"crop": "look_at"}, "image_plane"),
        ({"sigma": 0}, "--model.sigma"),
        ({"epsilon": -1}, "--model.epsilon"),
        ({"polarity_states": 4}, "--model.polarity_states"),
        ({"warmup": 1.0}, "--model.warmup"),
        ({"feature_width": 0}, "--model.feature_width"),
    ],
)
def test_impossible_arguments_are_one_sentence(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(PoseZooError, match=message):
        tiny(**arguments)


# ---------------------------------------------------------------- released weights


@pytest.mark.shared_data
def test_the_released_network_computes_what_the_authors_code_does(shared: Path) -> None:
    folder = shared / "golden" / "official"
    make = _table_reader(folder / "state_dict_from_table.py")
    state = make(json.loads((folder / "hemlets_r50.json").read_text()))
    estimator = HEMlets(convention="official").eval()
    load_official(estimator, {f"module.{name}": tensor for name, tensor in state.items()})
    image = torch.from_numpy(np.random.default_rng(7).random((2, 3, 256, 256), dtype=np.float32))[:1]
    seen: list[Tensor] = []
    hook = estimator.network.backbone.register_forward_hook(lambda *args: seen.append(args[-1]))
    with torch.no_grad():
        maps, volume = estimator.network.maps_and_volume(image)
    hook.remove()
    from posezoo.models.heads import decode_volume

    coords, _ = decode_volume(volume, "corners", scored=False)
    with np.load(folder / "hemlets_r50.npz") as expected:
        _close(seen[0].mean((2, 3)), expected["features_mean"])
        _close(maps.mean((2, 3)), expected["maps_mean"])
        _close(maps[:, :, ::16, ::16], expected["maps_sample"])
        _close(volume.flatten(1, 2)[:, ::37, ::16, ::16], expected["volume_sample"])
        assert (coords - torch.from_numpy(expected["joints"][:1])).abs().max() < 2e-6


def _close(found: Tensor, expected: Any) -> None:
    target = torch.from_numpy(np.asarray(expected))[:1]
    assert (found - target).abs().max() < 1e-4 * target.std()


def _table_reader(path: Path) -> Callable[[dict[str, list[int]]], dict[str, Tensor]]:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.make  # type: ignore[no-any-return]


def test_released_weights_are_refused_where_they_mean_something_else() -> None:
    with pytest.raises(PoseZooError, match=r"set --model.convention official"):
        load_official(tiny(), {})
    with pytest.raises(PoseZooError, match="resnet50"):
        load_official(tiny(convention="official"), {"conv_tail.3.bias": torch.zeros(1152)})
    with pytest.raises(PoseZooError, match=r"no tensor 'head.weight'"):
        from_official({"head.weight": torch.zeros(1)})


# ---------------------------------------------------------------- command line


def test_fit_logs_polarity_and_the_checkpoint_knows_bone_lengths(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from posezoo.__main__ import main

    run = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.enable_progress_bar=false"]
    run += [f"--trainer.logger.init_args.save_dir={tmp_path}", "--trainer.logger.init_args.name="]
    small = {"backbone": "resnet10_w8", "width": 8, "feature_width": 8, "depth_bins": 8}
    data = {"train_length": 8, "val_length": 4, "test_length": 4, "frame_size": 64, "batch_size": 4, "num_workers": 0}
    arguments = ["-c", "hemlets/demo_synthetic", "-c", "ablations/hemlets-warm-up", "--data.cache=false"]
    arguments += [f"--model.{key}={value}" for key, value in small.items()]
    arguments += [f"--data.{key}={value}" for key, value in data.items()]
    steps = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--trainer.log_every_n_steps=1"]
    assert not main(["fit", *arguments, *run, *steps, "--trainer.logger.init_args.version=fit"])
    printed = capsys.readouterr().out
    assert "bone lengths (mean of the training labels)" in " ".join(printed.split())
    header, *rows = (tmp_path / "fit" / "metrics.csv").read_text().splitlines()
    assert {"train/loss_triplets", "train/loss_joint_maps", "train/loss_volume", "val/polarity"} <= {*header.split(",")}
    scores = [row.split(",")[header.split(",").index("val/polarity")] for row in rows]
    assert 0 <= float(next(filter(None, scores))) <= 100

    assert (tmp_path / "fit" / "pictures" / "val-step2-triplets.png").is_file()

    (checkpoint,) = (tmp_path / "fit" / "checkpoints").glob("best*.ckpt")
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["hyper_parameters"]["warmup"] == 0.05
    assert (saved["state_dict"]["bone_counts"] > 0).all()
    test = ["test", f"--ckpt_path={checkpoint}", *run, "--trainer.logger.init_args.version=test"]
    assert not main([*test, "--model.root_depth=3000"])
    result = json.loads((tmp_path / "test" / "metrics.json").read_text())["test"]
    assert result["root_depth_source"] == "3000 mm for everybody"
    assert math.isfinite(result["metrics"]["abs_mpjpe"])

    sheets = []
    for model in ("hemlets", "integral"):
        out = tmp_path / f"{model}.png"
        options = [word for word in arguments[4:] if "feature_width" not in word or model == "hemlets"]
        assert not main(["show-batch", "-c", f"{model}/demo_synthetic", "--count=1", f"--out={out}", "--", *options])
        sheets.append(read_image(out))
    assert sheets[0].shape[1] == sheets[1].shape[1] + 192  # the triplets beside the rest


# ---------------------------------------------------------------- schedule and read-out


class _Run:
    """The part of a trainer that the schedule asks."""

    estimated_stepping_batches = 100

    def __init__(self, step: int) -> None:
        self.global_step = step


@pytest.mark.parametrize(("step", "warming"), [(0, True), (4, True), (5, False), (99, False)])
def test_warm_up_trains_the_maps_alone(step: int, warming: bool) -> None:
    estimator, batch = tiny(warmup=0.05).train(), batch_of()
    estimator._trainer = _Run(step)  # type: ignore[assignment]
    terms = estimator.losses(estimator.estimate(batch), batch)
    assert terms["volume"].requires_grad
    assert (terms["volume"] == 0) == warming
    assert terms["triplets"] > 0


def test_polarity_is_read_at_the_true_child() -> None:
    estimator, batch = tiny(image_size=256, stride=4, deconvs=1), spread_out()
    parts = estimator.parts
    batch["joints3d"][0, :, 2] = 4000 + 100 * torch.randn(18, generator=torch.Generator().manual_seed(3))
    targets, (order, _) = estimator.map_targets(batch, (64, 64)), estimator._order(batch)
    cells = estimator._cells(batch, (64, 64))
    assert order.unique().tolist() == [-1, 0, 1]
    assert torch.equal(read_polarity(targets.parts, cells, parts), order)
    maps = torch.cat([targets.joints, targets.parts.flatten(1, 2)], 1)
    prediction = estimator.eval().estimate(batch)
    prediction.aux["maps"] = maps
    right, known = estimator.polarity_hits(prediction, batch)
    assert right.all()
    assert known.all()
    prediction.aux["maps"] = torch.cat([targets.joints, targets.parts.flip(2).flatten(1, 2)], 1)
    assert torch.equal(estimator.polarity_hits(prediction, batch)[0], order == 0)


def test_without_any_label_there_is_no_polarity_to_score() -> None:
    estimator, batch = tiny().eval(), batch_of(labels="2d")
    right, known = estimator.polarity_hits(estimator.estimate(batch), batch)
    assert not known.any()
    assert not right.any()
    estimator.polarity_accuracy.update(100.0 * right.float(), known.float())
    assert estimator.polarity_accuracy.compute().isnan()


def test_joints_and_cells_of_the_official_convention() -> None:
    estimator, batch = tiny(image_size=256, convention="official", stride=4, deconvs=1), spread_out()
    torch.testing.assert_close(estimator._cells(batch, (64, 64)), batch["joints2d"] * 63 / 256)


# ---------------------------------------------------------------- pictures


def test_pictures_show_three_states_in_three_colours() -> None:
    from posezoo.models.hemlets.pictures import FARTHER, LEVEL, NEARER, draw_triplets

    maps = np.zeros((2, 3, 16, 16), np.float32)
    maps[0, 0, 2, 3] = maps[1, 1, 8, 8] = maps[1, 2, 12, 5] = 1
    maps[0, 2, 14, 14] = -5  # linear maps may be negative: that is nothing
    picture = draw_triplets(np.zeros((64, 64, 3), np.uint8), maps, 80)
    assert picture.shape == (80, 80, 3)
    for (row, column), colour in {(2, 3): FARTHER, (8, 8): LEVEL, (12, 5): NEARER}.items():
        assert tuple(picture[5 * row + 2, 5 * column + 2]) == colour  # its cell is five pixels wide
    assert not picture[72, 72].any()
    two = draw_triplets(np.zeros((64, 64, 3), np.uint8), maps[:, [0, 2]], 80)
    assert tuple(two[62, 27]) == NEARER
    assert not two[42, 42].any()


def test_an_estimator_draws_prediction_against_target() -> None:
    estimator, batch = tiny(image_size=256, stride=4, deconvs=1).eval(), spread_out()
    prediction = estimator.estimate(batch)
    targets = estimator.map_targets(batch, (64, 64))
    prediction.aux["maps"] = torch.cat([targets.joints, targets.parts.flatten(1, 2)], 1)
    sheet = estimator.pictures(prediction, batch, 4)["triplets"]
    left, right = sheet[4:196, 4:196], sheet[4:196, 196:388]
    assert np.array_equal(left, right)
    assert np.array_equal(left, estimator.label_picture(batch, 0, 192))
    assert left.std() > 10


# ---------------------------------------------------------------- T13: learning


def rendered(count: int) -> Batch:
    from posezoo.data import SyntheticPeople

    shape: dict[str, Any] = {"skeleton": "hemlets18", "image_size": 64, "crop": "image_plane", "frame_size": 96}
    crops = SyntheticPeople(preset="easy", train_length=count, **shape).crops("train")
    return cast(Batch, default_collate([crops[i] for i in range(count)]))


def overfit(estimator: HEMlets, batch: Batch, steps: int, rate: float) -> tuple[float, float, float]:
    """(L_int at the end over its start, share of right polarities of parts over a cell long, mean z error in mm)."""
    estimator.train()
    optimizer = torch.optim.Adam(estimator.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    first = math.nan
    for step in range(steps):
        prediction = estimator.estimate(batch)
        terms = estimator.losses(prediction, batch)
        maps = (terms["joint_maps"] + terms["triplets"]).item()
        first = maps if step == 0 else first
        optimizer.zero_grad()
        torch.stack([estimator.loss_weights().get(k, 1.0) * v for k, v in terms.items()]).sum().backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return maps / first, *_read_out(estimator, batch)


def _read_out(estimator: HEMlets, batch: Batch, cells_apart: float = 1.5) -> tuple[float, float]:
    prediction = estimator.estimate(batch)
    triplets = estimator.split_maps(prediction.aux["maps"])[1]
    cells = estimator._cells(batch, (triplets.shape[-2], triplets.shape[-1]))
    parent, child = estimator.parts.ends("cpu")
    # Where both ends share a cell, the parent's peak in the zero map stands at the child's place: nothing to read.
    apart = (cells[:, parent] - cells[:, child]).norm(dim=-1) > cells_apart
    right, known = estimator.polarity_hits(prediction, batch)
    target, counted = estimator.volume_targets(batch)
    z = (prediction.aux["coords"] - target)[..., 2].abs() * estimator.depth_range(batch)[:, None]
    return (right[known & apart].float().mean().item(), z[counted[..., 2]].mean().item())


SMALL: dict[str, Any] = {
    "image_size": 64,
    "stride": 16,
    "deconvs": 2,
    "depth_bins": 16,
    "sigma": 1.0,
    "flip_test": False,
}


def test_t13_a_few_people_are_learned() -> None:
    torch.manual_seed(0)
    estimator = HEMlets("resnet10_w16", **SMALL, width=64, feature_width=32)
    maps, right, z = overfit(estimator, rendered(4), steps=120, rate=6e-3)
    print(f"L_int {100 * maps:.1f} %, polarity {100 * right:.1f} %, z {z:.1f} mm")
    assert maps < 0.02
    assert right == 1.0
    assert z < 110  # 185 at the start; the volume takes longer than the maps


@pytest.mark.slow
def test_t13_sixteen_people_are_learned_by_heart() -> None:
    torch.manual_seed(0)
    estimator = HEMlets("resnet10_w16", **SMALL, width=64, feature_width=64)
    maps, right, z = overfit(estimator, rendered(16), steps=500, rate=6e-3)
    print(f"L_int {100 * maps:.1f} %, polarity {100 * right:.1f} %, z {z:.1f} mm")
    assert maps < 0.02
    assert right == 1.0
    assert z < 15


LIMBS = [["l_elbow", "l_wrist"], ["r_elbow", "r_wrist"], ["l_knee", "l_ankle"]]


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_t13_depth_order_teaches_what_3d_labels_do_not_show() -> None:
    """Limbs in two styles: ends that are nearer are bright, with 3D labels; or dark, with depth order alone.

    Scored on new figures of the second style, against the control whose Lambda is 0 there: both networks of a pair have
    one seed, so the same start, figures and batches. The read-out has three states, and the first style alone teaches
    the opposite of the second.
    """
    pairs = [[_polarity_after_training(weak, seed) for weak in (True, False)] for seed in range(3)]
    for seed, (weak, control) in enumerate(pairs):
        print(f"seed {seed}: polarity {weak:.1f} % with depth order in the second style, {control:.1f} % without")
    assert all(weak > control + 20 for weak, control in pairs)


def limbs(count: int, seed: int, all_second: bool = False) -> Batch:
    """Pictures of three limbs anywhere; every other picture is of the second style, with order labels only."""
    rng, batch = np.random.default_rng(seed), cast(Any, synthetic_batch(count, "hemlets18", 64, seed=seed))
    for key in ("valid2d", "valid3d", "valid_order"):
        batch[key][:] = False
    pictures = []
    for row in range(count):
        second = all_second or row % 2 == 1
        picture = np.full((64, 64, 3), 110 if second else 0, np.uint8)
        for number, (parent, child) in enumerate([HEMLETS18.index(j) for j in names] for names in LIMBS):
            ends, nearer = _two_places(rng), int(rng.choice((-1, 1)))
            batch["joints2d"][row, [parent, child]] = torch.tensor(ends).float()
            batch["joints3d"][row, child, 2] = batch["joints3d"][row, parent, 2] - 150.0 * nearer
            batch["valid2d"][row, [parent, child]] = True
            part = HEMLETS18.parts.index((parent, child))
            batch["depth_order"][row, part], batch["valid_order"][row, part] = nearer, second
            if not second:
                batch["valid3d"][row, [parent, child, HEMLETS18.index("pelvis")]] = True
            _draw_limb(picture, ends, number, bright=(nearer > 0) != second)
        pictures.append(picture)
    batch["image"] = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    return cast(Batch, batch)


def _two_places(rng: np.random.Generator) -> Any:
    """Two points in a crop of 64 px, 14 to 34 px apart."""
    while True:
        first = rng.uniform(8, 56, 2)
        second = first + rng.uniform(-24, 24, 2)
        if np.linalg.norm(second - first) >= 14 and (second > 6).all() and (second < 58).all():
            return np.stack([first, second])


def _draw_limb(picture: Any, ends: Any, number: int, bright: bool) -> None:
    import cv2

    parent, child = [tuple((16 * end).round().astype(int).tolist()) for end in ends]
    colour = 255.0 * np.eye(3)[number]
    cv2.line(picture, parent, child, (0.4 * colour).tolist(), 1, cv2.LINE_AA, 4)
    cv2.circle(picture, parent, 32, (0.5 * colour).tolist(), -1, cv2.LINE_AA, 4)
    cv2.circle(picture, child, 48, (colour if bright else 0.2 * colour).tolist(), -1, cv2.LINE_AA, 4)


def _polarity_after_training(weak: bool, seed: int, steps: int = 400, rate: float = 1e-2) -> float:
    """Percent of right polarities on new figures of the second style, after training the maps."""
    torch.manual_seed(seed)
    shown, held_out = limbs(512, seed), limbs(256, seed + 1000, all_second=True)
    shape: dict[str, Any] = SMALL | {"stride": 8, "deconvs": 1, "centered_stride": True, "depth_bins": 8}
    estimator = HEMlets("resnet10_w8", **shape, width=32, feature_width=8, parts=LIMBS, weak_labels=weak).train()
    optimizer = torch.optim.AdamW(estimator.parameters(), lr=rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.2)
    for _ in range(steps):
        batch = _take(shown, torch.randint(len(shown["image"]), (16,)))
        terms = estimator.losses(estimator.estimate(batch), batch)
        optimizer.zero_grad()
        (terms["joint_maps"] + terms["triplets"]).backward()
        optimizer.step()
        schedule.step()
    estimator.eval()
    with torch.no_grad():
        right, known = estimator.polarity_hits(estimator.estimate(held_out), held_out)
    return 100 * right[known].float().mean().item()


def _take(batch: Batch, rows: Tensor) -> Batch:
    return cast(Batch, {key: cast(Tensor, value)[rows] for key, value in batch.items()})
