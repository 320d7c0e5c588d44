"""LSP and MPII with ordinal depth: the sign, pixels and joints; files that are something else; anatomy as a witness."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.io import savemat

from posezoo.data import Mixed, OrdinalDepth, SyntheticPeople
from posezoo.data.ordinal import joint_boxes, nearer_than, open_people, part_order
from posezoo.errors import PoseZooError
from posezoo.skeletons import H36M17, HEMLETS18, LSP14, MPII16, Skeleton

MIMIC = Path("data") / "format_mimics" / "lsp_mpii_ordinal" / "mpii_upis1h"
# Which of Human3.6M's 17 joints the mimic's 16 were made of: its "thorax" and "upper neck" are neck and nose.
H36M_OF_MIMIC = [3, 2, 1, 4, 5, 6, 0, 8, 9, 10, 16, 15, 14, 11, 12, 13]


def release(folder: Path, depth: NDArray[Any], pixels: NDArray[Any] | None = None, **changes: Any) -> Path:
    """Write people of given depths [N, J], mm, as the release would, 1 for the closer joint; images of 100 x 80 px."""
    people, joints = depth.shape
    if pixels is None:
        pixels = np.random.default_rng(0).uniform(10, 70, (people, joints, 2))
    table = np.concatenate([pixels, np.ones((people, joints, 1))], -1).transpose(2, 1, 0)
    difference = depth[:, None, :] - depth[:, :, None]  # column minus row
    order = np.sign(difference) * (np.abs(difference) > 100)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number in range(people):
        name = f"{number + 1:05d}_full.jpg" if joints == 16 else f"im{number + 1:04d}.jpg"
        cv2.imwrite(str(folder / "images" / name), np.full((80, 100, 3), 7 * number % 256, np.uint8))
    savemat(folder / "joints.mat", {"joints": changes.get("joints", table)})
    savemat(folder / "ordinal.mat", {"ord": changes.get("ord", order)})
    return folder


def module(root: Path, **keywords: Any) -> OrdinalDepth:
    return OrdinalDepth(str(root), **{"skeleton": "hemlets18", "image_size": 64, "num_workers": 0, **keywords})


def orders(root: Path, target: Skeleton = HEMLETS18, **keywords: Any) -> dict[str, int | None]:
    """Order of the first person's parts by "parent-child"; None where it is not known."""
    people = open_people(root, target, **keywords)
    return {
        f"{target.joints[parent]}-{target.joints[child]}": int(people.order[0, part])
        if people.valid_order[0, part]
        else None
        for part, (parent, child) in enumerate(target.parts)
    }


# ------------------------------------------------------------------------------------------------- the sign


def one_person(**depths: float) -> NDArray[Any]:
    depth = np.full((1, 16), 3000.0)
    for name, value in depths.items():
        depth[0, MPII16.index(name)] = value
    return depth


def test_the_sign_by_hand(tmp_path: Path) -> None:
    """The knee is 300 mm nearer than its hip and the ankle 200 mm behind it; the wrist is 50 mm off the elbow."""
    root = release(tmp_path, one_person(r_knee=2700, r_ankle=2900, l_elbow=3300, l_wrist=3350))
    found = orders(root)
    assert found["r_hip-r_knee"] == 1  # +1: the child is nearer
    assert found["r_knee-r_ankle"] == -1
    assert found["l_shoulder-l_elbow"] == -1
    assert found["l_elbow-l_wrist"] == 0
    assert None not in found.values()
    mirrored = orders(root, positive="farther")
    assert mirrored == {part: -order for part, order in found.items() if order is not None}


@pytest.mark.shared_data
def test_the_sign_on_the_depths_that_the_mimic_was_made_of(shared: Path) -> None:
    with np.load(shared / "data" / "h36m" / "h36m_samples.npz") as truth:
        depth = truth["joints_cam_mm"][:, H36M_OF_MIMIC, 2]
    people = open_people(shared / MIMIC, HEMLETS18)
    names = HEMLETS18.joints
    counts = {-1: 0, 0: 0, 1: 0}
    for part, (parent, child) in enumerate(HEMLETS18.parts):
        nearer = depth[:, MPII16.index(names[parent])] - depth[:, MPII16.index(names[child])]
        wanted = np.where(nearer > 100, 1, np.where(nearer < -100, -1, 0))
        assert people.order[:, part].tolist() == wanted.tolist()
        for value in wanted:
            counts[int(value)] += 1
    assert people.valid_order.all()
    assert counts == {-1: 15, 0: 22, 1: 5}  # all three states occur


@pytest.mark.shared_data
def test_the_mimics_pixels_count_from_zero_as_ours(shared: Path) -> None:
    with np.load(shared / "data" / "h36m" / "h36m_samples.npz") as truth:
        pixels = truth["joints_px"][:, H36M_OF_MIMIC]
    people = open_people(shared / MIMIC, HEMLETS18)
    np.testing.assert_allclose(people.joints2d, pixels, atol=0.01)
    np.testing.assert_allclose(open_people(shared / MIMIC, HEMLETS18, first_pixel=1).joints2d, pixels - 1, atol=0.01)


def walkers(count: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """People with one knee bent, seen from the front or from behind by turns: depths and pixels."""
    depth, pixels = np.full((count, 16), 3000.0), np.zeros((count, 16, 2))
    for number in range(count):
        front = 1 if number % 2 else -1
        for name in MPII16.joints:
            side = {"l": 1, "r": -1}.get(name.partition("_")[0], 0) if "_" in name and name != "head_top" else 0
            pixels[number, MPII16.index(name)] = (50 + 15 * side * front, 10 + 4 * MPII16.index(name))
        depth[number, MPII16.index("r_ankle")] += 250 * front  # behind the knee, as the person sees it
    return depth, pixels


@pytest.mark.parametrize(("written", "read"), [(1, "closer"), (-1, "farther")])
def test_a_sign_by_which_knees_bend_forwards_is_refused(written: int, read: Any, tmp_path: Path) -> None:
    depth, pixels = walkers(60)
    root = release(tmp_path, depth * written, pixels)
    people = open_people(root, HEMLETS18, read)
    shin = HEMLETS18.parts.index((HEMLETS18.index("r_knee"), HEMLETS18.index("r_ankle")))
    assert people.order[:4, shin].tolist() == [1, -1, 1, -1]
    other = {"closer": "farther", "farther": "closer"}[read]
    with pytest.raises(
        PoseZooError, match=rf"knees bend forwards in 60 of 60 legs.*--data\.positive {read} \(now {other}"
    ):
        open_people(root, HEMLETS18, other)
    few = release(tmp_path / "few", depth[:40] * written, pixels[:40])
    assert len(open_people(few, HEMLETS18, other)) == 40  # too few to say


@pytest.mark.shared_data
def test_bent_knees_tell_the_sign_of_motion_capture_seen_from_any_side(shared: Path, tmp_path: Path) -> None:
    """The check rests on anatomy: it must hold, by far, for real poses."""
    with np.load(shared / "data" / "mocap" / "cmu_h17.npz") as data:
        poses = data["poses_mm"][::16, H36M_OF_MIMIC] @ np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]).T
    turns = np.random.default_rng(0).uniform(0, 2 * np.pi, len(poses))
    x = poses[..., 0] * np.cos(turns)[:, None] + poses[..., 2] * np.sin(turns)[:, None]
    z = poses[..., 2] * np.cos(turns)[:, None] - poses[..., 0] * np.sin(turns)[:, None]
    pixels = np.stack([50 + x / 50, 40 + poses[..., 1] / 50], -1)
    root = release(tmp_path, z, pixels)
    assert len(open_people(root, HEMLETS18, "closer")) == 300
    with pytest.raises(PoseZooError, match=r"knees bend forwards in \d+ of \d+ legs") as error:
        open_people(root, HEMLETS18, "farther")
    forwards, legs = (int(word) for word in str(error.value).split() if word.isdigit())
    assert forwards / legs > 0.85
    assert legs > 150


# ------------------------------------------------------------------------------------------------- pairs and parts


def test_one_triangle_stands_for_both_and_contradictions_for_none() -> None:
    whole = np.zeros((1, 3, 3))
    whole[0, 0, 1], whole[0, 1, 0] = 1, -1  # 0 is closer than 1
    whole[0, 1, 2], whole[0, 2, 1] = -1, -1  # each behind the other
    whole[0, 0, 2], whole[0, 2, 0] = np.nan, -1  # only one entry is labelled
    near, known = nearer_than(whole, "closer", Path("x"))
    assert near[0, 0].tolist() == [0, 1, 1]
    assert near[0, :, 0].tolist() == [0, -1, -1]
    assert not known[0, 1, 2]
    assert not known[0, 2, 1]
    assert known[0, 0, 2]
    consistent = np.where(np.isnan(whole), 1, whole)
    consistent[0, 2, 1] = 1
    expected, _ = nearer_than(consistent, "closer", Path("x"))
    for half in (np.triu(consistent), np.tril(consistent)):
        near, known = nearer_than(half, "closer", Path("x"))
        assert np.array_equal(near, expected)
        assert known[0][~np.eye(3, dtype=bool)].all()
    silent, known = nearer_than(np.full((1, 3, 3), np.nan), "closer", Path("x"))
    assert not silent.any()
    assert not known.any()


def test_no_label_is_not_level(tmp_path: Path) -> None:
    """Readers of the release report NaN without a label; MPII's pelvis and thorax may have none at all."""
    depth = one_person(r_knee=2700)
    difference = depth[:, None, :] - depth[:, :, None]
    order = np.sign(difference)
    pelvis = MPII16.index("pelvis")
    order[:, pelvis], order[:, :, pelvis] = np.nan, np.nan
    found = orders(release(tmp_path, depth, ord=order))
    assert found["r_hip-r_knee"] == 1
    assert [found["pelvis-r_hip"], found["pelvis-l_hip"], found["pelvis-thorax"]] == [None] * 3
    assert found["thorax-head_top"] == 0


def test_parts_of_invisible_or_derived_joints_are_unknown(tmp_path: Path) -> None:
    table = np.ones((3, 16, 1)) * 20
    table[:2, :, 0] += np.arange(32).reshape(2, 16)
    table[2, MPII16.index("l_knee"), 0] = 0
    root = release(tmp_path / "mpii", one_person(), joints=table)
    unknown = {part for part, order in orders(root).items() if order is None}
    assert unknown == {"l_hip-l_knee", "l_knee-l_ankle"}
    people = open_people(root, HEMLETS18)
    assert np.flatnonzero(~people.valid2d[0]).tolist() == [MPII16.index("l_knee")]

    lsp = release(tmp_path / "lsp", np.full((1, 14), 3000.0))
    unknown = {part for part, order in orders(lsp).items() if order is None}
    assert unknown == {
        "pelvis-r_hip", "pelvis-l_hip", "pelvis-thorax", "thorax-head_top", "thorax-l_shoulder", "thorax-r_shoulder"
    }  # fmt: skip
    # The mean of two labelled shoulders still has a place in the image.
    data = module(lsp, augmentation=None)
    row = data.crops("train")[0]
    assert bool(row["valid2d"][HEMLETS18.index("thorax")])
    # Human3.6M's bones hang on joints that MPII lacks.
    assert {part for part, order in orders(root, H36M17).items() if order is not None} == {
        "pelvis-r_hip", "r_hip-r_knee", "r_knee-r_ankle", "pelvis-l_hip",
        "neck-l_shoulder", "l_shoulder-l_elbow", "l_elbow-l_wrist",
        "neck-r_shoulder", "r_shoulder-r_elbow", "r_elbow-r_wrist",
    }  # fmt: skip


def test_lsp_joints_are_annotated_whatever_their_flag(tmp_path: Path) -> None:
    table = np.ones((3, 14, 1)) * 20
    table[:2, :, 0] += np.arange(28).reshape(2, 14)
    table[2] = 0
    people = open_people(release(tmp_path, np.full((1, 14), 3000.0), joints=table), HEMLETS18)
    assert people.skeleton is LSP14
    assert people.valid2d.all()
    assert people.path(0).name == "im0001.jpg"


def test_part_order_reads_the_childs_row() -> None:
    near = np.zeros((1, 16, 16), np.int8)
    near[0, MPII16.index("r_knee"), MPII16.index("r_hip")] = 1  # the knee is nearer than the hip
    order, valid = part_order(near, np.ones(near.shape, bool), MPII16, HEMLETS18)
    assert order.sum() == 1
    assert order[0, HEMLETS18.parts.index((HEMLETS18.index("r_hip"), HEMLETS18.index("r_knee")))] == 1
    assert valid.all()


# ------------------------------------------------------------------------------------------------- samples


def test_the_box_surrounds_the_annotated_joints_with_the_margin() -> None:
    joints = np.float32([[[10, 20], [30, 60], [999, 999]]])
    (box,) = joint_boxes(joints, np.array([[True, True, False]]), 0.1)
    assert box.tolist() == [6, 16, 28, 48]  # 20 x 40, and 4 px on each side


def test_people_with_one_joint_are_left_out(tmp_path: Path) -> None:
    depth = np.full((4, 16), 3000.0)
    pixels = np.random.default_rng(1).uniform(10, 70, (16, 2))
    table = np.ones((3, 16, 4))
    table[:2] = pixels.T[..., None]
    table[2, 1:, 1] = 0
    table[:2, :, 3] = np.nan
    people = open_people(release(tmp_path, depth, joints=table), HEMLETS18)
    assert people.number.tolist() == [0, 2]
    assert people.path(1).name == "00003_full.jpg"
    assert people.meta(1)["path"].endswith("images/00003_full.jpg")


@pytest.mark.shared_data
@pytest.mark.parametrize("box", ["annotation", "pelvis_2000mm"])
def test_crops_have_2d_and_order_and_no_camera(shared: Path, box: Any) -> None:
    data = module(shared / MIMIC, crop="look_at", box=box)
    crops = data.crops("train")
    row = crops[1]
    assert not row["has_camera"]
    assert not row["valid3d"].any()
    assert row["valid_order"].all()
    missing = [HEMLETS18.joints[at] for at in np.flatnonzero(~row["valid2d"].numpy())]
    assert missing == ["spine", "nose"]
    assert torch.allclose(row["crop_to_image"][2], torch.tensor([0.0, 0, 1]), atol=1e-6)  # a similarity
    focal, side = float(row["source_intrinsics"][0, 0]), 1002
    assert 2 * np.degrees(np.arctan(side / 2 / focal)) == pytest.approx(8, abs=0.05)
    joints = row["joints2d"][row["valid2d"]]
    assert ((joints > 0) & (joints < 63)).all()  # the box holds all of them
    # A joint keeps its place in the picture.
    wrist = torch.cat([row["joints2d"][HEMLETS18.index("r_wrist")], torch.ones(1)])
    people = open_people(shared / MIMIC, HEMLETS18)
    place = people.joints2d[1][MPII16.index("r_wrist")]
    np.testing.assert_allclose((row["crop_to_image"] @ wrist)[:2].numpy(), place, atol=0.05)
    assert torch.equal(crops.labels(1)["joints2d"], row["joints2d"])
    assert crops.people.meta(1)["path"].endswith("images/00002_full.jpg")


@pytest.mark.shared_data
def test_a_flip_swaps_parts_and_keeps_the_polarity(shared: Path) -> None:
    from posezoo.data.crop import Augmentation

    still = {"roll": 0.0, "zoom": (1.0, 1.0), "shift": 0.0, "occlusion": 0.0, "colour": False}
    plain = module(shared / MIMIC).crops("train")[0]
    flipped = module(shared / MIMIC, augmentation=Augmentation(flip=1, **still)).crops("train")[0]  # type: ignore[arg-type]
    assert torch.equal(flipped["depth_order"], HEMLETS18.flip_parts(plain["depth_order"]))
    assert not torch.equal(flipped["depth_order"], plain["depth_order"])
    difference = (flipped["image"].int() - plain["image"].flip(-1).int()).abs().float()
    assert difference.mean() < 1.5  # resampled at the same places but for rounding


def test_validation_people_are_a_block_at_the_end(tmp_path: Path) -> None:
    root = release(tmp_path, np.full((10, 16), 3000.0))
    data = module(root, val_share=0.25)
    data.setup("fit")
    train, val = data.people("train"), data.people("val")
    assert train.number.tolist() == list(range(8))
    assert val.number.tolist() == [8, 9]
    assert len(module(root).people("train")) == 10
    with pytest.raises(PoseZooError, match=r"keeps nobody for validation: set --data\.val_share, or make it a source"):
        module(root).setup("fit")
    for split in ("test", "predict"):
        with pytest.raises(PoseZooError, match="no 3D labels to score"):
            module(root).setup(split)
    assert "nothing is scored in mm" in data.protocol("val")
    assert data.mean_pose() is None


@pytest.mark.shared_data
def test_it_joins_a_mix_as_weak_source(shared: Path) -> None:
    rendered = SyntheticPeople(preset="easy", frame_size=64, train_length=4, val_length=2)
    data = Mixed(
        [rendered, OrdinalDepth(str(shared / MIMIC))],
        [2, 2],
        num_workers=0,
        skeleton="hemlets18",
        image_size=48,
        crop="image_plane",
        box="pelvis_2000mm",  # for those who have a pelvis
    )
    data.setup("fit")
    (first, second) = list(data.train_dataloader())
    for batch in (first, second):
        assert batch["source"].tolist() == [0, 0, 1, 1]
        assert batch["has_camera"].tolist() == [True, True, False, False]
        assert batch["valid_order"].any(1).tolist() == [False, False, True, True]
    assert data.mean_pose() is not None


# ------------------------------------------------------------------------------------------------- mistakes


def _save(file: str, **fields: Any) -> Callable[[Path], Any]:
    return lambda root: savemat(root / file, fields)


def _header(version: bytes) -> bytes:
    return version.ljust(124) + b"\x00\x02IM" + b"\x00" * 64


MISTAKES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no joints": (lambda root: (root / "joints.mat").unlink(), r"has no 'joints\.mat': set --data\.root"),
    "no order": (lambda root: (root / "ordinal.mat").unlink(), r"has no 'ordinal\.mat'"),
    "no images": (lambda root: shutil.rmtree(root / "images"), r"has no 'images'"),
    "other images": (
        lambda root: (root / "images" / "00001_full.jpg").rename(root / "images" / "1.jpg"),
        r"neither 00001_full\.jpg nor im0001\.jpg",
    ),
    "MATLAB 7.3": (
        lambda root: (root / "ordinal.mat").write_bytes(_header(b"MATLAB 7.3 MAT-file")),
        r"ordinal\.mat cannot be read",
    ),
    "damaged": (lambda root: (root / "joints.mat").write_bytes(b"MATLAB 5.0" * 20), r"joints\.mat cannot be read"),
    "empty": (lambda root: (root / "joints.mat").write_bytes(b""), r"joints\.mat cannot be read"),
    "other field": (_save("joints.mat", points=np.ones(3)), r"joints\.mat holds points, not 'joints'"),
    "other skeleton": (_save("joints.mat", joints=np.ones((3, 17, 2))), r"shape \(3, 17, 2\), expected \(3, 16, N\)"),
    "other people": (_save("ordinal.mat", ord=np.ones((3, 16, 16))), r"\(3, 16, 16\), expected \(2, 16, 16\)"),
    "other values": (_save("ordinal.mat", ord=np.full((2, 16, 16), 2.0)), "holds the depth order 2, but only 1, 0, -1"),
    "other size": (
        _save("joints.mat", joints=np.random.default_rng(0).uniform(300, 900, (3, 16, 2))),
        r"00001_full\.jpg is 100 x 80 px, but most of its joints",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_another_folder_is_one_clear_sentence(mistake: str, tmp_path: Path) -> None:
    root = release(tmp_path / "data", np.full((2, 16), 3000.0))
    spoil, sentence = MISTAKES[mistake]
    spoil(root)
    with pytest.raises(PoseZooError, match=sentence) as error:
        module(root, val_share=0.5).setup("fit")
    assert "\n" not in str(error.value)
    assert str(root) in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"positive": "nearer"}, r"--data\.positive is closer or farther, got 'nearer'"),
        ({"first_pixel": 2}, r"--data\.first_pixel is 0 or 1, got 2"),
        ({"margin": -0.1}, r"--data\.margin must not be negative"),
        ({"val_share": 1.0}, r"--data\.val_share must be at least 0 and below 1"),
        ({"root": None}, r"does not know where its files are: set --data\.root"),
        ({"root": "/nowhere"}, r"There is no folder /nowhere: set --data\.root"),
    ],
)
def test_senseless_arguments_are_refused(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PoseZooError, match=sentence):
        OrdinalDepth(**arguments).people("train")
