"""Models for other runtimes: crops and intrinsics in, poses in mm out, as ONNX or torch.export; checked before use.

The exported graph holds everything behind the crop: normalisation, network, flip test, decoding, and the way to
absolute coordinates. Geometry and softmax stay in float32 in every variant.
"""

import contextlib
import copy
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from posezoo import __version__
from posezoo.disk import disk_errors
from posezoo.errors import PoseZooError, did_you_mean
from posezoo.models.base import PoseEstimator
from posezoo.release import probe_batch
from posezoo.structures import Batch

Format = Literal["onnx", "torch"]
Precision = Literal["float32", "float16", "int8"]
SUFFIXES: dict[str, str] = {"onnx": ".onnx", "torch": ".pt2"}
INPUTS, OUTPUTS = ("image", "intrinsics"), ("joints3d", "joints2d", "scores")
OPSET = 18
TOLERANCE_MM, TOLERANCE_PX = 0.1, 0.01
# Beyond 5 m a tenth of a millimetre is less than what float32 leaves of a distance after a few operations.
_RELATIVE = TOLERANCE_MM / 5000.0
_MOST_BATCH = 4096

Run = Callable[[Tensor, Tensor], tuple[Tensor, ...]]


class Deployed(nn.Module):
    """An estimator as a function of tensors.

    Args:
        estimator: In evaluation mode.

    Raises:
        PoseZooError: It cannot be used without labels, or is no pose network.
    """

    def __init__(self, estimator: PoseEstimator) -> None:
        super().__init__()
        if type(estimator).__name__ == "PartAwareSearch":
            raise PoseZooError("a supernet is not for use: export the PartAware that is made of its genotype.")
        root_depth = getattr(estimator, "root_depth", None)
        if root_depth == "truth":
            raise PoseZooError(
                "these weights take the distance to the camera from labels (root_depth truth): add --root-depth "
                "bone_length, or a distance in mm."
            )
        self.estimator = estimator.eval()
        if root_depth == "rootnet":
            self.rootnet = cast(Any, estimator)._load_rootnet()  # registered, so that its weights are exported too

    def forward(self, image: Tensor, intrinsics: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Poses of crops.

        Args:
            image: uint8 [B, 3, S, S] RGB.
            intrinsics: float32 [B, 3, 3] of the crop cameras, px.

        Returns:
            joints3d [B, J, 3] mm in the crop camera's frame, absolute; joints2d [B, J, 2] crop px; scores [B, J].
        """
        found = self.estimator.estimate(bare_batch(image, intrinsics, len(self.estimator.skeleton)))
        return found.joints3d.float(), found.joints2d.float(), found.scores.float()


def bare_batch(image: Tensor, intrinsics: Tensor, joints: int) -> Batch:
    """What `estimate` needs of a batch: crops without labels, each showing exactly its box."""
    count, side = image.shape[0], image.shape[-1]
    zeros = intrinsics.new_zeros(count, joints, 3)
    nowhere = torch.zeros(count, joints, dtype=torch.bool, device=image.device)
    batch = {
        "image": image,
        "intrinsics": intrinsics,
        "crop_to_image": torch.eye(3, device=image.device).expand(count, 3, 3),
        "box": torch.tensor([0.0, 0.0, side, side], device=image.device).expand(count, 4),
        "joints3d": zeros,
        "joints2d": zeros[..., :2],
        "valid3d": nowhere,
        "valid2d": nowhere,
    }
    return cast(Batch, batch)


@dataclass
class Difference:
    """How far an exported model is from the one in PyTorch and float32, over people of SyntheticPeople.

    Attributes:
        people: How many.
        mm: Mean and largest distance of a joint in the camera frame.
        mm_relative: The same with both poses at their own root.
        px: The same in the crop.
        allowed: Largest mm that counts as rounding.
    """

    people: int
    mm: tuple[float, float]
    mm_relative: tuple[float, float]
    px: tuple[float, float]
    allowed: float

    def __str__(self) -> str:
        (a, b), (c, d), (e, f) = self.mm, self.mm_relative, self.px
        return (
            f"absolute {a:.4g} mm (largest {b:.4g}), root-relative {c:.4g} mm ({d:.4g}), 2D {e:.3g} px ({f:.3g}), "
            f"{self.people} people"
        )


def export_model(
    estimator: PoseEstimator,
    out: Path,
    kind: Format = "onnx",
    precision: Precision = "float32",
    opset: int = OPSET,
    people: int = 8,
) -> Difference:
    """Write a model for another runtime, run it there, and keep it only if it computes the same.

    Args:
        estimator: What to export, on the CPU.
        out: `.onnx` or `.pt2`; replaced only by a file that passed.
        kind: "onnx" (checked in onnxruntime) or "torch" (torch.export; checked after loading it again).
        precision: "float16" has the network's layers in half precision; "int8" (ONNX) has 8-bit convolutions whose
            ranges are found at run time. Their loss is measured, not limited.
        opset: Of ONNX.
        people: How many people of SyntheticPeople to compare.

    Returns:
        The measured difference to PyTorch in float32.

    Raises:
        PoseZooError: Wrong arguments, missing packages, a full disk, or in float32 a difference of more than 0.1 mm or
            0.01 px.
    """
    _check(out, kind, precision)
    batch = probe_batch(estimator, people)
    image, intrinsics = batch["image"], batch["intrinsics"]
    reference = Deployed(estimator)
    with torch.no_grad():
        expected = reference(image, intrinsics)
    deployed = Deployed(_halved(estimator)) if precision == "float16" else reference
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.stem}.", dir=out.parent) as folder:
            made = Path(folder) / f"model{SUFFIXES[kind]}"
            run = _WRITERS[kind](deployed, (image[:2], intrinsics[:2]), made, precision, opset)
            difference = compare(run, image, intrinsics, expected, estimator.root)
            if precision == "float32":
                _require_equal(difference, out)
            made.replace(out)
    return difference


def compare(run: Run, image: Tensor, intrinsics: Tensor, expected: tuple[Tensor, ...], root: int) -> Difference:
    """Run people one by one, and all at once, and compare with what is expected; the larger difference counts."""
    single = [run(image[i : i + 1], intrinsics[i : i + 1]) for i in range(len(image))]
    found = [tuple(torch.cat(rows) for rows in zip(*single, strict=True)), run(image, intrinsics)]
    joints, pixels, _ = expected
    mm, relative, px = [], [], []
    for joints3d, joints2d, _ in found:
        mm.append((joints3d - joints).norm(dim=-1))
        relative.append(((joints3d - joints3d[:, root, None]) - (joints - joints[:, root, None])).norm(dim=-1))
        px.append((joints2d - pixels).norm(dim=-1))
    allowed = max(TOLERANCE_MM, _RELATIVE * float(joints.norm(dim=-1).max()))
    return Difference(len(image), _summary(mm), _summary(relative), _summary(px), allowed)


def _summary(errors: list[Tensor]) -> tuple[float, float]:
    both = torch.stack(errors)
    return float(both.mean()), float(both.max())


def _require_equal(difference: Difference, out: Path) -> None:
    if not (difference.mm[1] <= difference.allowed and difference.px[1] <= TOLERANCE_PX):  # also not a number
        raise PoseZooError(
            f"the exported model computes something else than PyTorch ({difference}), so {out} was not written: please "
            "report it with the output of `posezoo env`."
        )


def facts(estimator: PoseEstimator, precision: str, opset: int | None) -> dict[str, str]:
    """What somebody who finds the file should know; written into it."""
    rows: dict[str, Any] = {
        "posezoo": __version__,
        "method": type(estimator).__name__,
        "skeleton": estimator.skeleton.name,
        "joints": list(estimator.skeleton.joints),
        "image": f"uint8 [batch, 3, {estimator.image_size}, {estimator.image_size}] RGB crop, {estimator.crop} camera",
        "intrinsics": "float32 [batch, 3, 3] of the crop camera, px; integer coordinate = pixel centre",
        "joints3d": "float32 [batch, joints, 3] mm, crop-camera frame (x right, y down, z forward), absolute",
        "joints2d": "float32 [batch, joints, 2] crop px",
        "scores": "float32 [batch, joints] in 0..1",
        "precision": precision,
    }
    if opset is not None:
        rows["opset"] = opset
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in rows.items()}


def _check(out: Path, kind: str, precision: str) -> None:
    if kind not in SUFFIXES:
        raise PoseZooError(f"unknown --format '{kind}': {did_you_mean(kind, SUFFIXES)}")
    if precision not in get_args(Precision):
        raise PoseZooError(f"unknown --precision '{precision}': {did_you_mean(precision, get_args(Precision))}")
    if precision == "int8" and kind != "onnx":
        raise PoseZooError("8-bit models are for onnxruntime: type --format onnx.")
    if out.suffix != SUFFIXES[kind]:
        raise PoseZooError(f"--out of --format {kind} ends in {SUFFIXES[kind]}, got {out.name}.")
    if kind == "onnx":
        require("onnx", "onnx", "onnxruntime", "onnxscript")


def require(extra: str, *packages: str) -> None:
    """Refuse to go on without the packages of an optional extra.

    Raises:
        PoseZooError: Naming the first that is missing, and how to install it.
    """
    for package in packages:
        try:
            __import__(package)
        except ImportError as error:
            raise PoseZooError(f"{package} is not installed: type `pip install 'posezoo[{extra}]'`.") from error


def _halved(estimator: PoseEstimator) -> PoseEstimator:
    """A copy whose network computes in float16; decoding and geometry are float32 by themselves."""
    halved = copy.deepcopy(estimator)
    halved.network.half()
    return halved


# ------------------------------------------------------------------------------------------------------- writers


def _program(module: nn.Module, example: Mapping[str, Tensor]) -> Any:
    """torch.export with a free batch size."""
    batch = torch.export.Dim("batch", min=1, max=_MOST_BATCH)
    with torch.no_grad(), _quiet():
        return torch.export.export(
            module, tuple(example.values()), dynamic_shapes={name: {0: batch} for name in example}, strict=False
        )


def _write_torch(deployed: Deployed, example: tuple[Tensor, Tensor], file: Path, precision: str, opset: int) -> Run:
    del opset
    text = json.dumps(facts(deployed.estimator, precision, None), indent=2)
    torch.export.save(_program(deployed, _named(example)), file, extra_files={"posezoo.json": text})
    module = torch.export.load(file).module()

    def run(image: Tensor, intrinsics: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return tuple(module(image, intrinsics))

    return run


def _write_onnx(deployed: Deployed, example: tuple[Tensor, Tensor], file: Path, precision: str, opset: int) -> Run:
    import onnx

    write_graph(deployed, _named(example), OUTPUTS, file, opset)
    if precision == "int8":
        _quantise(file)
    model = onnx.load(file)
    for key, value in facts(deployed.estimator, precision, model.opset_import[0].version).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.save(model, file)
    return onnx_runner(file)


def _named(example: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    return dict(zip(INPUTS, example, strict=True))


def write_graph(
    module: nn.Module, example: Mapping[str, Tensor], outputs: Sequence[str], file: Path, opset: int = OPSET
) -> None:
    """Write a module as ONNX, with a free batch size.

    Args:
        module: Returns a tuple of tensors.
        example: What it is called with, in the order of its arguments, two or more samples.
        outputs: Names of what it returns.
        file: Where it goes.
        opset: Of ONNX.
    """
    program = _program(module, example)
    with torch.no_grad(), _quiet():
        made = torch.onnx.export(
            program,
            input_names=list(example),
            output_names=list(outputs),
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
    if made is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    made.save(file, external_data=False)


def _quantise(file: Path) -> None:
    """Convolutions in 8 bits, in place: weights now, activations by the range that they have at run time."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        quantize_dynamic(file, file, op_types_to_quantize=["Conv"], weight_type=QuantType.QUInt8)


def onnx_runner(file: Path) -> Run:
    """A function that runs an exported ONNX file on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def run(image: Tensor, intrinsics: Tensor) -> tuple[Tensor, ...]:
        feed = dict(zip(INPUTS, (image.numpy(), intrinsics.numpy()), strict=True))
        return tuple(torch.from_numpy(value) for value in session.run(list(OUTPUTS), feed))

    return run


_WRITERS: dict[str, Callable[[Deployed, tuple[Tensor, Tensor], Path, str, int], Run]] = {
    "onnx": _write_onnx,
    "torch": _write_torch,
}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters talk a lot: warnings about their own insides, and progress on stdout."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
