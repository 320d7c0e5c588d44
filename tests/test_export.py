"""Exported models compute in onnxruntime what PyTorch does, for every method, every batch size and far from it too."""

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from posezoo import export
from posezoo.__main__ import main
from posezoo.errors import PoseZooError
from posezoo.export import Deployed, Difference, bare_batch, compare, export_model, onnx_runner
from posezoo.models.base import PoseEstimator
from posezoo.structures import Batch
from posezoo.testing import synthetic_batch, tiny_estimator
from posezoo.zoo import save_model

SMALL: dict[str, dict[str, Any]] = {
    "MeTRAbs": {"centered_stride": True},
    "IntegralPose": {"width": 16, "depth_bins": 16},
    "HEMlets": {"width": 16, "feature_width": 32, "depth_bins": 16},
    "RootNet": {"width": 16},
    "PartAware": {
        "widths": [8],
        "depth_bins": 16,
        "flip_test": False,
        "genotype": "reference",
        "output_stride": 8,
        "root_depth": 4000.0,
    },
}


def sharp(name: str, **arguments: Any) -> PoseEstimator:
    """A tiny untrained method whose heatmaps have peaks: flat ones hide mistakes, and put people nowhere."""
    torch.manual_seed(0)
    model = tiny_estimator(PoseEstimator.known_methods()[name], **(SMALL[name] | arguments)).eval()
    for key, parameter in model.named_parameters():
        if parameter.ndim == 4 and "backbone" not in key:
            nn.init.normal_(parameter, std=(2.0 / parameter[0].numel()) ** 0.5)
    return model


@pytest.fixture(autouse=True)
def noise_instead_of_people(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rendering takes longer than all else in here."""

    def probe(estimator: PoseEstimator, count: int = 3) -> Batch:
        return synthetic_batch(count, estimator.skeleton.name, estimator.image_size, labels="none")

    monkeypatch.setattr(export, "probe_batch", probe)


# Conversion takes 5 to 15 CPU-seconds a method, so one belongs to the default run.
QUICK = ("MeTRAbs",)


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in SMALL])
def test_every_method_in_onnxruntime(name: str, tmp_path: Path) -> None:
    model, out = sharp(name), tmp_path / "model.onnx"
    difference = export_model(model, out, people=3)
    assert difference.mm[1] <= difference.allowed
    assert difference.px[1] <= 0.01

    # Other people than it was checked with, and a batch size that it was not.
    batch = synthetic_batch(5, model.skeleton.name, 64, seed=9)
    with torch.no_grad():
        expected = Deployed(model)(batch["image"], batch["intrinsics"])
    found = onnx_runner(out)(batch["image"], batch["intrinsics"])
    assert (found[0] - expected[0]).abs().max() <= max(0.1, 2e-5 * float(expected[0].abs().max()))
    assert (found[1] - expected[1]).abs().max() <= 0.01
    torch.testing.assert_close(found[2], expected[2], atol=1e-4, rtol=0)

    graph = onnx.load(out)
    assert graph.opset_import[0].version == 18
    facts = {entry.key: entry.value for entry in graph.metadata_props}
    assert json.loads(facts["joints"]) == list(model.skeleton.joints)
    assert facts["opset"] == "18"
    assert graph.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_what_is_exported_is_what_predict_says() -> None:
    """A crop without augmentation carries no more than its pixels and its intrinsics."""
    for name in ("MeTRAbs", "HEMlets"):
        model = sharp(name)
        batch = synthetic_batch(3, model.skeleton.name, 64)
        with torch.no_grad():
            expected = model.predict_step(batch, 0)
            joints3d, joints2d, scores = Deployed(model)(batch["image"], batch["intrinsics"])
        torch.testing.assert_close(joints3d, expected.joints3d)
        torch.testing.assert_close(joints2d, expected.joints2d)
        torch.testing.assert_close(scores, expected.scores)


@pytest.mark.slow
def test_smaller_variants_and_torch_export(tmp_path: Path) -> None:
    model = sharp("MeTRAbs")
    saved = export_model(model, tmp_path / "model.pt2", "torch", people=3)
    assert saved.mm[1] <= saved.allowed
    extra = {"posezoo.json": ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    assert json.loads(extra["posezoo.json"])["skeleton"] == "h36m17"
    batch = synthetic_batch(4)
    assert program.module()(batch["image"], batch["intrinsics"])[0].shape == (4, 17, 3)

    export_model(model, tmp_path / "full.onnx", people=3)
    half = export_model(model, tmp_path / "half.onnx", precision="float16", people=3)
    small = export_model(model, tmp_path / "small.onnx", precision="int8", people=3)
    size = {name: (tmp_path / f"{name}.onnx").stat().st_size for name in ("full", "half", "small")}
    assert size["half"] < 0.75 * size["full"]
    assert size["small"] < 0.75 * size["full"]
    assert 0 < half.px[1] < small.px[1]  # the loss is measured, and of the right order
    assert half.px[1] < 1


def test_a_difference_is_refused_and_the_old_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "model.pt2"
    out.write_bytes(b"of yesterday")

    def wrong(deployed: Deployed, *_: Any) -> export.Run:
        return lambda image, intrinsics: tuple(value + 0.2 for value in deployed(image, intrinsics))

    monkeypatch.setitem(export._WRITERS, "torch", wrong)
    with pytest.raises(PoseZooError, match="computes something else than PyTorch"), torch.no_grad():
        export_model(sharp("MeTRAbs"), out, "torch")
    assert out.read_bytes() == b"of yesterday"
    assert len(list(tmp_path.iterdir())) == 1


def test_differences_are_distances_of_joints() -> None:
    """By hand: one of two joints is 3, 4 mm off and 0.6, 0.8 px; the other one is the root."""
    joints, pixels, scores = torch.zeros(1, 2, 3), torch.zeros(1, 2, 2), torch.ones(1, 2)
    off3d, off2d = joints.clone(), pixels.clone()
    off3d[0, 1, :2] = torch.tensor([3.0, 4.0])
    off2d[0, 1] = torch.tensor([0.6, 0.8])
    found = compare(
        lambda *_: (off3d, off2d, scores), torch.zeros(1, 1), torch.zeros(1, 1), (joints, pixels, scores), 0
    )
    assert found.mm == (2.5, 5.0)
    assert found.mm_relative == (2.5, 5.0)
    assert found.px == pytest.approx((0.5, 1.0))
    assert found.allowed == 0.1
    assert str(Difference(1, (1, 2), (3, 4), (5, 6), 0.1)).startswith(
        "absolute 1 mm (largest 2), root-relative 3 mm (4)"
    )


def test_a_crop_without_labels_is_its_own_box() -> None:
    image, intrinsics = torch.zeros(2, 3, 64, 64, dtype=torch.uint8), torch.eye(3).expand(2, 3, 3)
    batch = bare_batch(image, intrinsics, 17)
    assert batch["box"].tolist() == [[0, 0, 64, 64]] * 2
    assert not batch["valid3d"].any()


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], "Add --out FILE.onnx"),
        (["--out={folder}/model.pt"], "--format onnx ends in .onnx, got model.pt"),
        (["--out={folder}/m.onnx", "--format=onx"], "did you mean onnx"),
        (["--out={folder}/m.onnx", "--precision=fp16"], "unknown --precision 'fp16'"),
        (["--out={folder}/m.pt2", "--format=torch", "--precision=int8"], "type --format onnx"),
        (["--out={folder}/m.onnx", "--opset=9"], "--opset must be 18 to 23"),
        (["--out={folder}/m.onnx", "--people=0"], "--people must be at least 1"),
        (["--out={folder}/m.onnx", "--root-depth=near"], "Unknown --model.root_depth 'near'"),
        (["--out={folder}/model.json/m.onnx"], "make room, mend its permissions or choose another folder"),
        (["--out={folder}/m.onnx"], "root_depth truth): add --root-depth"),
    ],
)
def test_mistakes_are_one_sentence(
    args: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    depth = "truth" if expected.startswith("root_depth") else "bone_length"
    folder = save_model(sharp("IntegralPose", root_depth=depth), tmp_path / "weights")
    assert main(["export", str(folder), *(word.format(folder=folder) for word in args)]) == 2
    message = capsys.readouterr().err.strip()
    assert expected in message
    assert message.count("\n") == 0


def test_a_supernet_is_not_exported() -> None:
    model = tiny_estimator(
        PoseEstimator.known_methods()["PartAwareSearch"], widths=[8], depth_bins=16, groups="g1", skeleton="h36m17"
    )
    with pytest.raises(PoseZooError, match="export the PartAware"):
        Deployed(model)
