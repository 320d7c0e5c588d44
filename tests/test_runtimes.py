"""Faster networks compute the same: folded, in bfloat16, in OpenVINO; mistakes are one sentence."""

import sys
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import pytest
import torch
from inference_helpers import PHOTO, Stub
from safetensors.torch import load_file
from torch import Tensor, nn

import posezoo
from posezoo.__main__ import main
from posezoo.errors import PoseZooError
from posezoo.export import Deployed, export_model
from posezoo.models.backbones import batch_norms
from posezoo.models.metrabs import MeTRAbs
from posezoo.people import People
from posezoo.pipeline import PosePipeline
from posezoo.runtimes import OpenVinoNetwork, for_inference, openvino_runner
from posezoo.structures import Batch
from posezoo.testing import synthetic_batch, tiny_estimator
from posezoo.zoo import GOLDEN_FILE, list_weights, load_model, locate

# What the bundled weights were measured to lose in bfloat16, on rendered people, is 11 mm and 0.21 px.
BF16_MM, BF16_PX = 25.0, 0.5


def golden_batch(name: str) -> Batch:
    """The rendered people that come with released weights."""
    golden = load_file(locate(name) / GOLDEN_FILE)
    batch = {key.removeprefix("batch."): value for key, value in golden.items() if key.startswith("batch.")}
    return cast(Batch, batch)


def apart(model: Any, faster: Any, batch: Batch) -> tuple[float, float, float]:
    """Largest difference of a joint in mm and in px, and of a score."""
    with torch.inference_mode():
        before, after = model.predict_step(batch, 0), faster.predict_step(batch, 0)
    mm = (after.joints3d - before.joints3d).norm(dim=-1)
    px = (after.joints2d - before.joints2d).norm(dim=-1)
    return float(mm.max()), float(px.max()), float((after.scores - before.scores).abs().max())


@pytest.mark.parametrize("name", list_weights())
def test_folded_networks_compute_the_same_and_leave_the_model_alone(name: str) -> None:
    model, batch = load_model(name), golden_batch(name)
    network, names = model.network, list(model.state_dict())
    faster = for_inference(model)
    assert list(batch_norms(network))
    assert not list(batch_norms(faster.network))
    mm, px, score = apart(model, faster, batch)
    assert mm < 0.01
    assert px < 1e-4
    assert score < 1e-5
    assert model.network is network
    assert list(model.state_dict()) == names


@pytest.mark.parametrize("name", list_weights())
def test_bfloat16_is_off_by_millimetres(name: str) -> None:
    model, batch = load_model(name), golden_batch(name)
    faster = for_inference(model, precision="bfloat16")
    assert {parameter.dtype for parameter in faster.network.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    mm, px, _ = apart(model, faster, batch)
    assert 0.01 < mm < BF16_MM
    assert px < BF16_PX


class Odd(nn.Module):
    """A network that takes more than crops."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))

    def forward(self, image: Tensor, scale: Tensor) -> Tensor:
        return cast(Tensor, self.layers(image.to(self.layers[0].weight) * scale))


def test_networks_that_cannot_be_folded_stay_as_they_are() -> None:
    model = Stub().eval()
    model.network = Odd().eval()
    assert for_inference(model).network is model.network
    low = for_inference(model, precision="bfloat16")
    assert next(low.network.parameters()).dtype == torch.bfloat16
    assert next(model.network.parameters()).dtype == torch.float32, "a copy was changed"


def test_a_pipeline_says_what_it_runs_in_and_finds_the_same() -> None:
    name, box = "metrabs_resnet10.synthetic_v1", [[20.0, 10.0, 60.0, 70.0]]
    plain = PosePipeline(load_model(name), "cpu", detector="none")
    plain.model = load_model(name)
    folded = posezoo.load(name, "cpu", detector="none")
    low = posezoo.load(name, "cpu", detector="none", precision="bfloat16")
    assert repr(folded).endswith("64 px, cpu)")
    assert repr(low).endswith("64 px, cpu, bfloat16)")
    wanted = plain(PHOTO, box, tta=3).joints3d
    np.testing.assert_allclose(folded(PHOTO, box, tta=3).joints3d, wanted, atol=0.02)
    assert np.abs(low(PHOTO, box, tta=3).joints3d - wanted).max() > 0.02


def test_infer_takes_a_precision(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), PHOTO)
    words = ["infer", str(tmp_path / "a.png"), "--detector", "none", "--device", "cpu", "--no-pictures"]
    assert main([*words, "--out", str(tmp_path / "full")]) == 0
    assert main([*words, "--out", str(tmp_path / "low"), "--precision", "bfloat16"]) == 0
    full, low = (People.load(tmp_path / name / "a.json").joints3d for name in ("full", "low"))
    assert np.abs(full - low).max() > 0.02


@pytest.mark.slow
@pytest.mark.parametrize("name", list_weights())
def test_openvino_runs_the_bundled_weights(name: str) -> None:
    pytest.importorskip("openvino")
    model, batch = load_model(name), golden_batch(name)
    one: Any = {key: cast(Tensor, value)[:1] for key, value in batch.items()}
    faster = for_inference(model, "openvino")
    for part in (batch, one):
        mm, px, score = apart(model, faster, part)
        assert mm < 0.1
        assert px < 0.01
        assert score < 1e-4
    low = PosePipeline(model, runtime="openvino", precision="bfloat16")
    assert repr(low).endswith("64 px, cpu, openvino, bfloat16)")
    mm, px, _ = apart(model, low.model, batch)
    assert mm < BF16_MM
    assert px < BF16_PX


@pytest.mark.slow
def test_infer_runs_in_openvino_without_lightning(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    from test_infer import in_fresh_process

    cv2.imwrite(str(tmp_path / "a.png"), PHOTO)
    words = ["infer", str(tmp_path / "a.png"), "--detector", "none", "--no-pictures"]
    assert main([*words, "--device", "cpu", "--out", str(tmp_path / "torch")]) == 0
    words += ["--runtime", "openvino", "--out", str(tmp_path / "openvino")]
    printed = in_fresh_process(f"""
        import sys
        from posezoo.__main__ import main
        assert main({words!r}) == 0
        print("@", [name for name in ("pytorch_lightning", "torchmetrics") if name in sys.modules])
    """)
    assert printed.rpartition("@ ")[2].strip() == "[]"
    found, wanted = (People.load(tmp_path / name / "a.json").joints3d for name in ("openvino", "torch"))
    np.testing.assert_allclose(found, wanted, atol=0.1)


def test_openvino_that_is_missing_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    cv2.imwrite(str(tmp_path / "a.png"), PHOTO)
    assert main(["infer", str(tmp_path / "a.png"), "--runtime", "openvino", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "openvino is not installed: type `pip install 'posezoo[openvino]'`." in error
    with pytest.raises(PoseZooError, match="openvino is not installed"):
        posezoo.load("no such weights", runtime="openvino")


def test_networks_that_openvino_cannot_run_are_named() -> None:
    with pytest.raises(PoseZooError, match="return a dataclass, not Flatten: take the runtime torch"):
        OpenVinoNetwork(nn.Flatten(), 8, "float32")


def test_unknown_runtimes_and_other_devices_are_refused() -> None:
    with pytest.raises(PoseZooError, match="unknown runtime 'openvno': did you mean openvino"):
        for_inference(Stub(), "openvno")  # type: ignore[arg-type]
    with pytest.raises(PoseZooError, match="unknown precision 'bf16': did you mean bfloat16"):
        for_inference(Stub(), precision="bf16")  # type: ignore[arg-type]
    for device in ("cuda", "tpu9"):
        with pytest.raises(PoseZooError, match=f"for the CPU, not for '{device}'"):
            PosePipeline(Stub(), device, runtime="openvino")


# ------------------------------------------------------------------------------------------------ exported files


@pytest.mark.slow
def test_openvino_computes_the_same(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    torch.manual_seed(0)
    estimator = tiny_estimator(MeTRAbs).eval()
    file, batch = tmp_path / "model.onnx", synthetic_batch(3, "h36m17", 64)
    export_model(estimator, file, people=2)
    run = openvino_runner(file)
    for count in (3, 1):
        image, intrinsics = batch["image"][:count], batch["intrinsics"][:count]
        with torch.no_grad():
            expected = Deployed(estimator)(image, intrinsics)
        for found, wanted in zip(run(image, intrinsics), expected, strict=True):
            torch.testing.assert_close(found, wanted, atol=0.1, rtol=1e-4)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(PoseZooError, match=r"pip install 'posezoo\[openvino\]'"):
        openvino_runner(tmp_path / "model.onnx")


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    with pytest.raises(PoseZooError, match=r"no file .*model\.onnx"):
        openvino_runner(tmp_path / "model.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(PoseZooError, match=r"cannot read .*broken\.onnx"):
        openvino_runner(broken)


def test_unknown_precisions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PoseZooError, match="bfloat16"):
        openvino_runner(tmp_path / "model.onnx", "bfloat")  # type: ignore[arg-type]
