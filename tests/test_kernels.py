"""Triton kernels without a GPU: interpreted on the CPU, compiled for two GPUs, and turned off or down politely."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from posezoo import kernels
from posezoo.heatmaps import soft_argmax
from posezoo.models.fused_head import can_fuse

pytest.importorskip("triton", reason="Triton is not installed here: its wheels are for Linux")

CASES = (
    *(f"{layout} {dtype}" for layout in ("packed", "interleaved", "strided") for dtype in ("float32", "bfloat16")),
    *(f"{layout} float16" for layout in ("packed", "interleaved", "strided")),
    "18 volumes bfloat16",
    "far from zero float32",
    "axis of one float32",
)


@pytest.fixture(scope="module")
def interpreted() -> Any:
    """What tests/kernel_checks.py found, with every kernel interpreted."""
    script = Path(__file__).with_name("kernel_checks.py")
    env = os.environ | {"TRITON_INTERPRET": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The CPU counts as a device that may have kernels, and nothing is known about it yet."""
    monkeypatch.setattr(kernels, "_DEVICES", ("cpu",))
    kernels._sound.cache_clear()
    yield
    kernels._sound.cache_clear()


@pytest.mark.parametrize("case", CASES)
def test_kernels_agree_with_the_plain_formula_in_float64(case: str, interpreted: Any) -> None:
    found = interpreted["cases"][case]
    assert found["voxels"] < 1e-5
    # Half a unit in the last place of the type that the gradient is stored in, and float32 sums.
    assert found["gradient"] < {"bfloat16": 2**-8, "float16": 2**-11, "float32": 0.0}[case.split()[-1]] * 1.5 + 2e-6


def test_the_cases_are_those_that_ran(interpreted: Any) -> None:
    assert set(interpreted["cases"]) == set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_gradients_may_be_written_over_the_logits(case: str, interpreted: Any) -> None:
    found = interpreted["cases"][case]
    assert found["untouched"], "a gradient of its own must leave the logits alone"
    assert found["overwrites"], "written over the logits, it must have the same bits"
    assert found["keeps_layout"], "a layout copy would be needed"


def test_special_values(interpreted: Any) -> None:
    special = interpreted["special"]
    assert special["delta"] == pytest.approx([5 / 6, 2 / 5, 3 / 4], abs=1e-6)  # all the others are -inf
    assert special["nan"] == [True, True, True]  # empty, NaN, +inf
    assert special["high"] == pytest.approx([1 / 6, 1 / 5, 1 / 4], abs=1e-6)  # 20,100 among 20,000


def test_soft_argmax_takes_the_kernel_unless_told_otherwise(interpreted: Any) -> None:
    with_kernel, switched_off, float64 = interpreted["dispatch"]["functions"]
    assert "TritonSoftArgmaxBackward" in with_kernel
    assert not {"CloneBackward0", "CopyBackwards"} & set(with_kernel[:-2]), "interleaved volumes were copied"
    for other in (switched_off, float64):
        assert "_BlockedSoftArgmaxBackward" in other
    assert interpreted["dispatch"]["flat"] < 1e-6


def test_a_volumetric_head_convolves_the_whole_batch_on_a_gpu() -> None:
    """Its loop over samples, made for caches, would be a dozen launches for each."""
    conv = nn.Conv2d(8, 18 * 64, 1)
    assert can_fuse(conv, torch.empty(2, 8, 64, 64), 18)
    with FakeTensorMode():
        assert not can_fuse(conv, torch.empty(2, 8, 64, 64, device="cuda"), 18)


def test_the_rasteriser_draws_the_same_people(interpreted: Any) -> None:
    found = interpreted["rasteriser"]
    assert found["share"] > 0.05
    assert found["same_ids"] > 0.999
    assert found["millimetres"] < 0.01


@pytest.mark.parametrize("kernel", ["soft-argmax", "rasteriser"])
def test_the_check_before_first_use_passes(kernel: str, interpreted: Any) -> None:
    assert interpreted["deviations"][kernel] < 1


def test_a_gpu_that_cannot_run_kernels_is_told_once(on_the_cpu: None, caplog: pytest.LogCaptureFixture) -> None:
    """Without the interpreter, Triton has no driver for a CPU: as on a machine whose compiler or driver is broken."""
    volumes = torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found = soft_argmax(volumes, 3, fused=True)
    torch.testing.assert_close(found, soft_argmax(volumes, 3, fused=False), atol=1e-6, rtol=0)
    soft_argmax(volumes, 3, fused=True)
    (line,) = caplog.messages
    assert "The soft-argmax in Triton does not run on cpu" in line
    assert "POSEZOO_TRITON=0" in line


def test_missing_triton_is_told_once(
    on_the_cpu: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "posezoo.kernels.soft_argmax", raising=False)
    assert not kernels.usable(torch.zeros(1), "soft-argmax")
    assert not kernels.usable(torch.zeros(1), "soft-argmax")
    (line,) = caplog.messages
    assert "ModuleNotFoundError" in line


def test_wrong_kernels_are_not_used(
    on_the_cpu: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for wrong in (1.5, float("nan")):
        kernels._sound.cache_clear()
        monkeypatch.setitem(kernels._DEVIATIONS, "soft-argmax", lambda _device, wrong=wrong: wrong)
        assert not kernels.usable(torch.zeros(1), "soft-argmax")
    assert "off by 1.5 times" in caplog.messages[0]


def test_switched_off_kernels_are_not_even_tried(
    on_the_cpu: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("POSEZOO_TRITON", "0")
    assert not kernels.usable(torch.zeros(1), "soft-argmax")
    assert not caplog.messages


def test_cpu_float64_and_empty_tensors_have_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_sound", lambda _device, _kernel: True)
    assert not kernels.usable(torch.zeros(1), "soft-argmax")
    monkeypatch.setattr(kernels, "_DEVICES", ("cpu",))
    assert kernels.usable(torch.zeros(1), "soft-argmax")
    assert not kernels.usable(torch.zeros(1, dtype=torch.float64), "soft-argmax")
    assert not kernels.usable(torch.zeros(0), "soft-argmax")


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("capability", [80, 90])  # A100, H100 and H200
def test_kernels_compile_for_a_gpu(
    capability: int, interleaved: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To machine code, by Triton's own assembler; no GPU is asked for."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler import compile as build

    from posezoo.kernels import rasterise
    from posezoo.kernels import soft_argmax as triton

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    volume = {"INTERLEAVED": interleaved, "SLAB": triton._SLAB, "LANES": triton._LANES}
    volumes = {"logits": "*bf16", "gradient": "*bf16", "partial": "*fp32", "table": "*fp32"}
    frames = {"quadrics": "*fp32", "boxes": "*i32", "depth": "*fp32", "ids": "*i16"}
    for kernel, constants, tensors in (
        (triton._locate_slab, volume, volumes),
        (triton._pull_slab, volume, volumes),
        (rasterise._draw_tile, {"TILE": rasterise._TILE}, frames),
    ):
        types = tensors | dict.fromkeys(constants, "constexpr")
        signature = {name: types.get(name, "i32") for name in kernel.arg_names}
        built = build(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", capability, 32))
        assert f"sm_{capability}" in built.asm["ptx"]
        assert len(built.asm["cubin"]) > 1000


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_kernels_on_a_gpu(dtype: torch.dtype) -> None:
    volumes = (3 * torch.randn(2, 18, 64, 64, 64, generator=torch.Generator().manual_seed(0))).to("cuda", dtype)
    interleaved = volumes.permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2)
    assert kernels.usable(volumes, "soft-argmax")
    exact = volumes.double().requires_grad_()
    expected = soft_argmax(exact, 3, fused=False)
    (gradient,) = torch.autograd.grad(expected.square().sum(), exact)
    for each in (volumes, interleaved):
        logits = each.detach().requires_grad_()
        found = soft_argmax(logits, 3)
        assert (found - expected).abs().max() * 64 < 1e-4
        (pulled,) = torch.autograd.grad(found.square().sum(), logits)
        assert (pulled - gradient).abs().max() <= max(torch.finfo(dtype).eps, 1e-5) * gradient.abs().max()
