"""The benchmark for a GPU, run on the CPU with small networks: that it runs, and that its arithmetic is right."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu import METHODS, Step, build, gflop_per_image
from posezoo.testing import synthetic_batch

CPU = torch.device("cpu")


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 0
    said = capsys.readouterr().out
    assert "no CUDA device" in said
    assert "--quick --device cpu" in said
    assert "|" not in said, "no table of numbers that were not measured"


def test_it_runs_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "gpu.json"
    assert gpu.main(["--quick", "--device", "cpu", "--peak-tflops", "0.5", "--json", str(out)]) == 0
    said = capsys.readouterr().out
    assert "CPU: no GPU was measured" in said
    found = json.loads(out.read_text())
    assert [row["method"] for row in found["trainings"]] == list(METHODS)
    for row in found["trainings"]:
        assert row["margin"] == pytest.approx(row["loader_images_per_s"] / row["images_per_s"])
        assert row["utilisation"] == pytest.approx(row["images_per_s"] * row["gflop"] / 500)
        assert row["peak_mb"] is row["waits"] is None, "only a GPU has them"
        assert f"| {row['method']} |" in said
    names = [part["name"] for part in found["parts"]]
    assert len(names) == len(set(names)) == 5  # plain and in blocks for two layouts, the renderer; no Triton on a CPU
    assert all(part["milliseconds"] > 0 for part in found["parts"])


@pytest.mark.parametrize(("method", "forward"), [("MeTRAbs", 10.7), ("IntegralPose", 16.9), ("HEMlets", 60.2)])
def test_work_is_counted_also_inside_the_fused_head(method: str, forward: float) -> None:
    """GFLOP of the published networks on ResNet-50, counted elsewhere; a training step is three times that."""
    estimator = build(method, quick=False)
    step = Step(estimator, synthetic_batch(1, estimator.skeleton.name, 256), CPU, compiled=False)
    assert gflop_per_image(step) == pytest.approx(3 * forward, rel=5e-3)


@pytest.mark.parametrize("method", METHODS)
def test_a_step_learns(method: str) -> None:
    """It is a training step: the loss of one batch falls."""
    estimator = build(method, quick=True)
    step = Step(estimator, synthetic_batch(2, estimator.skeleton.name, 64), CPU, compiled=False)
    losses = [float(step()) for _ in range(6)]
    assert losses[-1] < losses[0]


def test_what_is_compiled_is_what_a_training_compiles() -> None:
    estimator = build("HEMlets", quick=True)
    Step(estimator, synthetic_batch(2, estimator.skeleton.name, 64), CPU, compiled=True)
    assert estimator.network._compiled_call_impl is not None
    assert estimator.draw_targets is not type(estimator).draw_targets
