"""Running exported models in OpenVINO, the fastest way known on Intel's processors; an optional extra.

`posezoo.export.onnx_runner` is the same for onnxruntime.
"""

from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from posezoo.errors import PoseZooError, did_you_mean
from posezoo.export import INPUTS, OUTPUTS, Run

OpenVinoPrecision = Literal["float32", "bfloat16"]
_HINTS = {"float32": "f32", "bfloat16": "bf16"}


def openvino_runner(file: Path, precision: OpenVinoPrecision = "float32", threads: int | None = None) -> Run:
    """A function that runs an ONNX file of `posezoo export` on the CPU by OpenVINO.

    Args:
        file: `.onnx`, in float32.
        precision: What convolutions compute in. "bfloat16" changes joints by millimetres: measure it on your images
            (`posezoo.export.compare`). A processor without bfloat16 instructions computes in float32 all the same.
        threads: None for as many as PyTorch uses.

    Returns:
        uint8 crops [B, 3, S, S] and intrinsics [B, 3, 3] -> joints3d mm, joints2d px, scores.

    Raises:
        PoseZooError: OpenVINO is not installed, or the file is none that it can read.
    """
    if precision not in get_args(OpenVinoPrecision):
        raise PoseZooError(f"unknown precision '{precision}': {did_you_mean(precision, get_args(OpenVinoPrecision))}")
    try:
        import openvino  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError as error:
        raise PoseZooError("openvino is not installed: type `pip install 'posezoo[openvino]'`.") from error
    if not file.is_file():
        raise PoseZooError(f"there is no file {file}: make it with `posezoo export WEIGHTS --out {file.name}`.")
    settings = {
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        "INFERENCE_NUM_THREADS": threads or torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    try:
        compiled = openvino.Core().compile_model(file, "CPU", settings)
    except RuntimeError as error:
        raise PoseZooError(f"OpenVINO cannot read {file}: export it again with `posezoo export`.") from error

    def run(image: Tensor, intrinsics: Tensor) -> tuple[Tensor, ...]:
        found = compiled(dict(zip(INPUTS, (image.numpy(), intrinsics.numpy()), strict=True)))
        return tuple(torch.from_numpy(found[name].copy()) for name in OUTPUTS)

    return run
