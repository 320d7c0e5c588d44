"""What networks run in: PyTorch with batch norms folded, or OpenVINO, the fastest way known on Intel's processors.

`for_inference` is behind `posezoo.load` and `posezoo infer`; it replaces an estimator's network and nothing else.
`openvino_runner` runs a whole file of `posezoo export`; `posezoo.export.onnx_runner` is the same for onnxruntime.
"""

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

import torch
from torch import Tensor, nn

from posezoo.errors import PoseZooError, did_you_mean
from posezoo.export import INPUTS, OUTPUTS, Run, require, write_graph
from posezoo.models.base import PoseEstimator
from posezoo.models.folding import fold_batch_norms

Runtime = Literal["torch", "openvino"]
Precision = Literal["float32", "bfloat16"]
_HINTS: Final = {"float32": "f32", "bfloat16": "bf16"}
# px; the size of the example does not matter to folding, and a network at full size would cost more than it saves.
_SMALL: Final = 64
# Largest difference of an output, relative to its largest entry, that rounding explains.
_TOLERANCE: Final = 1e-3


def check_runtime(runtime: str, precision: str) -> None:
    """Refuse unknown names, and OpenVINO where it is not installed.

    Raises:
        PoseZooError: With what to type instead.
    """
    _check_name("runtime", runtime, get_args(Runtime))
    _check_name("precision", precision, get_args(Precision))
    if runtime == "openvino":
        require("openvino", "openvino", "onnx", "onnxscript")


def _check_name(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise PoseZooError(f"unknown {what} '{value}': {did_you_mean(value, known)}")


def for_inference(model: PoseEstimator, runtime: Runtime = "torch", precision: Precision = "float32") -> PoseEstimator:
    """An estimator with a faster network, for inference only: to the rounding of float32 it computes the same.

    Batch norms are folded into the convolutions before them, where that is possible. Decoding and geometry are the
    estimator's own, in float32.

    Args:
        model: In evaluation mode, with `network` and `image_size`; it is not changed, and shares all but its network
            with what is returned.
        runtime: "openvino" converts the network, which takes some seconds, and runs it on the CPU.
        precision: What convolutions compute in. "bfloat16" moves joints by millimetres.

    Raises:
        PoseZooError: Unknown names, OpenVINO is not installed, or it cannot run this network or computes something
            else.
    """
    check_runtime(runtime, precision)
    network = _folded(model.network)
    if runtime == "openvino":
        network = OpenVinoNetwork(network, model.image_size, precision)
    elif precision == "bfloat16":
        own = copy.deepcopy(network) if network is model.network else network
        network = own.bfloat16().to(memory_format=torch.channels_last)
    faster = copy.copy(model)
    faster._modules = {**model._modules, "network": network}
    return faster


def _folded(network: nn.Module) -> nn.Module:
    """The network with batch norms folded; itself where that is not possible."""
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    try:
        return fold_batch_norms(network, _noise(1, _SMALL, device))
    except (PoseZooError, RuntimeError, TypeError, ValueError):
        return network  # of a plug-in: its layers do more than their classes say, or it takes other crops than ours


def _noise(count: int, side: int, device: torch.device | None = None) -> Tensor:
    """uint8 crops [count, 3, side, side], always the same."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator).to(device)


# ------------------------------------------------------------------------------------------------------ OpenVINO


class OpenVinoNetwork(nn.Module):
    """A network that OpenVINO runs on the CPU; it has no parameters of its own.

    Args:
        network: Takes uint8 crops [B, 3, S, S] and returns a dataclass of tensors.
        side: S.
        precision: What it computes in.

    Raises:
        PoseZooError: OpenVINO cannot run it, or computes something else in float32.
    """

    def __init__(self, network: nn.Module, side: int, precision: Precision) -> None:
        super().__init__()
        image = _noise(2, side)
        with torch.no_grad():
            expected = network(image)
        if not is_dataclass(expected) or isinstance(expected, type):
            raise PoseZooError(f"OpenVINO runs networks that return a dataclass, not {_name(network)}: {_ADVICE}.")
        self._kind = type(expected)
        self._names = [field.name for field in fields(expected) if isinstance(getattr(expected, field.name), Tensor)]
        with tempfile.TemporaryDirectory(prefix="posezoo-") as folder:
            file = Path(folder) / "network.onnx"
            try:
                write_graph(_Parts(network, self._names), {"image": image}, self._names, file)
            except Exception as error:  # the exporter raises nearly anything
                raise PoseZooError(f"{_name(network)} cannot be converted for OpenVINO: {_ADVICE}.") from error
            self._run = _compiled(file, "float32")
            self._require_equal(expected, image, _name(network))
            if precision != "float32":
                self._run = _compiled(file, precision)

    def forward(self, image: Tensor) -> Any:
        """What the network makes of uint8 crops [B, 3, S, S]."""
        found = self._run({"image": image.contiguous().numpy()})
        return self._kind(**{name: torch.from_numpy(found[name].copy()) for name in self._names})

    def _require_equal(self, expected: Any, image: Tensor, name: str) -> None:
        found = self(image)
        for field in self._names:
            before, after = getattr(expected, field), getattr(found, field)
            allowed = _TOLERANCE * float(before.abs().max()) + 1e-12
            if not float((before - after).abs().max()) <= allowed:  # also not a number
                raise PoseZooError(f"OpenVINO computes other {field} than PyTorch for {name}: {_ADVICE}.")


_ADVICE: Final = "take the runtime torch"


class _Parts(nn.Module):
    """A network whose output is a tuple of tensors, as exporters want it."""

    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.network, self.names = network, names

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        found = self.network(image)
        return tuple(getattr(found, name) for name in self.names)


def _name(network: nn.Module) -> str:
    return type(network).__name__


def openvino_runner(file: Path, precision: Precision = "float32", threads: int | None = None) -> Run:
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
    _check_name("precision", precision, get_args(Precision))
    require("openvino", "openvino")
    if not file.is_file():
        raise PoseZooError(f"there is no file {file}: make it with `posezoo export WEIGHTS --out {file.name}`.")
    compiled = _compiled(file, precision, threads)

    def run(image: Tensor, intrinsics: Tensor) -> tuple[Tensor, ...]:
        found = compiled(dict(zip(INPUTS, (image.numpy(), intrinsics.numpy()), strict=True)))
        return tuple(torch.from_numpy(found[name].copy()) for name in OUTPUTS)

    return run


def _compiled(file: Path, precision: str, threads: int | None = None) -> Any:
    """OpenVINO's own callable: arrays by name in, arrays by name out."""
    import openvino  # type: ignore[import-untyped,import-not-found,unused-ignore]

    settings = {
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        "INFERENCE_NUM_THREADS": threads or torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    try:
        return openvino.Core().compile_model(file, "CPU", settings)
    except RuntimeError as error:
        raise PoseZooError(f"OpenVINO cannot read {file}: export it again with `posezoo export`.") from error
