"""An exported model computes the same in OpenVINO; mistakes are one sentence."""

import sys
from pathlib import Path

import pytest
import torch

from posezoo.errors import PoseZooError
from posezoo.export import Deployed, export_model
from posezoo.models.metrabs import MeTRAbs
from posezoo.runtimes import openvino_runner
from posezoo.testing import synthetic_batch, tiny_estimator


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
