"""Image backbones from timm: output stride, centred striding, normalisation, weights.

A symmetric-padded network looks at pixels 0, 32, 64, ... with its cells, which is not centred in the crop. Centred
striding (MeTRAbs, section 3 of its model card) lets the last strided layer sample odd positions, so that cell k looks
at 32 k + 16.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.func import functional_call

from posezoo.errors import PoseZooError, did_you_mean
from posezoo.light import import_without
from posezoo.models.depthwise import DepthwiseConv2d, is_depthwise

STRIDES = (4, 8, 16, 32)

# timm's classes (EfficientNet also builds MobileNetV2) whose strides we can shift and replace by dilation; each proven
# by gradient centroid in the tests. Their variants with averaging shortcuts, blur pooling or mixed kernels are not
# meant: see `_is_plain`.
KNOWN_FAMILIES = ("ResNet", "ResNetV2", "EfficientNet")


_STAGES = ("layer1", "layer2", "layer3", "layer4")
_NARROW = 16  # input channels; see `SlicedConv2d`


def _short_resnet(channels: tuple[int, int, int, int]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from timm.models.resnet import BasicBlock, ResNet

        body: nn.Module = ResNet(
            BasicBlock,
            [1, 1, 1, 1],
            channels=channels,
            stem_width=channels[0] // 2,
            stem_type="deep",
            num_classes=0,
            global_pool="",
            # timm starts residual branches at zero; in runs of a few thousand steps that costs a good part of them.
            zero_init_last=False,
        )
        blocks: Any = [block for stage in _STAGES for block in body.get_submodule(stage).children()]
        for block in blocks:
            if block.downsample is not None and block.downsample[0].in_channels < _NARROW:
                block.downsample[0] = SlicedConv2d.from_conv(block.downsample[0])
        return body

    return build


# Plain ten-layer ResNets for laptops and tests: on a CPU they learn fastest per second, depthwise nets crawl.
# `resnet10_flat` widens less than usual, because at stride 8 its late stages run on as many cells as its early ones.
OWN_BACKBONES: dict[str, Callable[[], nn.Module]] = {
    "resnet10_w8": _short_resnet((8, 16, 32, 64)),
    "resnet10_w16": _short_resnet((16, 32, 64, 128)),
    "resnet10_w32": _short_resnet((32, 64, 128, 256)),
    "resnet10_flat": _short_resnet((32, 64, 96, 128)),
}


class Backbone(nn.Module):
    """A timm network without its classifier: uint8 crops in, a feature map out.

    Args:
        name: Any timm model with a convolutional feature map, or one of `OWN_BACKBONES`.
        stride: px per cell in training: 4, 8, 16 or 32.
        stride_test: The same in evaluation; later strides become dilation and weights are reused. None: as `stride`.
        centered_stride: Let cell k look at pixel `stride * k + stride / 2`.
        weights: None, "imagenet" (timm's own, downloaded) or a file with a state dict.
        bn_momentum: Momentum of BatchNorm statistics; None keeps the backbone's.

    Attributes:
        channels: Channels of the feature map.
        offset, offset_test: Pixel that cell 0 looks at, in training and in evaluation.

    Raises:
        PoseZooError: Unknown name, impossible stride, centring asked of a family that we cannot centre, weights
            that are missing or do not fit.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        stride: int = 32,
        stride_test: int | None = None,
        centered_stride: bool = True,
        weights: str | None = None,
        bn_momentum: float | None = None,
    ) -> None:
        super().__init__()
        for value in (stride, stride_test or stride):
            if value not in STRIDES:
                raise PoseZooError(f"Strides are 4, 8, 16 or 32 px, got {value}: set --model.stride accordingly.")
        self.name, self.stride, self.stride_test = name, stride, stride_test or stride
        self.centered = centered_stride
        self.body = _create(name, stride, centered_stride, pretrained=weights == "imagenet")
        # The layout that convolutions like: 1.2x here on a CPU in float32, more in bfloat16.
        self.body.to(memory_format=torch.channels_last)
        self.channels = cast(int, self.body.num_features)
        config = getattr(self.body, "pretrained_cfg", None) or {}
        self.register_buffer("mean", _colour(config.get("mean", (0.5, 0.5, 0.5))), persistent=False)
        self.register_buffer("std", _colour(config.get("std", (0.5, 0.5, 0.5))), persistent=False)
        if weights not in (None, "imagenet"):
            load_backbone_weights(self.body, Path(weights))
        if bn_momentum is not None:
            for layer in batch_norms(self):
                layer.momentum = bn_momentum
        # A skeleton on the meta device at the other stride; it borrows this module's tensors in every call.
        self._test_body: list[nn.Module] = []
        self.offset = self.offset_test = _offset(self.body, stride, centered_stride)
        if self.stride_test != stride:
            dense = _create(name, self.stride_test, centered_stride, pretrained=False)
            self.offset_test = _offset(dense, self.stride_test, centered_stride)
            self._test_body.append(_Features(dense.to("meta")).eval())

    def forward(self, image: UInt8[Tensor, "batch 3 side side"]) -> Float[Tensor, "batch channels rows columns"]:
        """Features of uint8 RGB crops; float images are taken as 0..1."""
        x = self.normalise(image)
        if self.training or not self._test_body:
            return self.body.forward_features(x)  # type: ignore[operator,no-any-return]
        tensors = dict(self.body.named_parameters()) | dict(self.body.named_buffers())
        features: Tensor = functional_call(self._test_body[0], _prefixed(tensors), (x,))
        return features

    def normalise(self, image: Tensor) -> Tensor:
        """To zero mean and unit variance as the backbone's own training had it, in the dtype of the module."""
        image = image.contiguous(memory_format=torch.channels_last)
        x = image.float() / 255 if image.dtype == torch.uint8 else image
        return ((x - self.mean) / self.std).to(self.mean.dtype)

    def cell_grid(self) -> tuple[int, float]:
        """(stride, offset) in px, in the current mode: cell k looks at pixel `stride * k + offset`."""
        return (self.stride, self.offset) if self.training else (self.stride_test, self.offset_test)


class _Features(nn.Module):
    """timm's `forward_features` as a module's forward, so that `functional_call` can reach it."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body.forward_features(x)  # type: ignore[operator,no-any-return]


def _prefixed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"body.{name}": tensor for name, tensor in tensors.items()}


def _colour(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(1, 3, 1, 1)


def batch_norms(module: nn.Module) -> Iterator[Any]:
    """Every BatchNorm layer of a module."""
    return (m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))


def _create(name: str, stride: int, centered: bool, pretrained: bool) -> nn.Module:
    body = _create_full(name, pretrained)
    if _is_plain(body):
        _restride(body, stride)
        if centered:
            _centre(body)
        return body
    if centered:
        raise PoseZooError(
            f"Centred striding is not available for {name} ({type(body).__name__}): set --model.centered_stride false, "
            "or choose a plain ResNet, ResNetV2, MobileNetV2 or EfficientNetV2."
        )
    return body if stride == 32 else _create_full(name, pretrained, stride)


def _offset(body: nn.Module, stride: int, centered: bool) -> float:
    """Pixel that cell 0 looks at; the tests prove the first two lines."""
    if centered:
        return stride / 2
    return 0.0 if _is_plain(body) else measure_offset(body, stride)


def _create_full(name: str, pretrained: bool, stride: int | None = None) -> nn.Module:
    """The network as it was published; families that we do not know are asked for a stride by timm's own option."""
    with import_without("wandb"):  # timm's logging helpers would load it, for two seconds
        import timm

    if name in OWN_BACKBONES:
        if pretrained:
            raise PoseZooError(f"{name} has no ImageNet weights: drop --model.backbone_weights or choose a timm model.")
        return OWN_BACKBONES[name]()
    if not timm.is_model(name):
        raise PoseZooError(f"Unknown backbone '{name}': {did_you_mean(name, [*OWN_BACKBONES, *timm.list_models()])}")
    options: dict[str, Any] = {"num_classes": 0, "global_pool": "", "pretrained": pretrained}
    if name.startswith("tf_"):
        options["pad_type"] = ""  # TensorFlow's SAME padding would centre cells at 32 k + 31
    if stride is not None:
        options["output_stride"] = stride
    try:
        return timm.create_model(name, **options)  # type: ignore[no-any-return]
    except Exception as error:
        if stride is not None:
            raise PoseZooError(
                f"{name} cannot run at stride {stride}: use --model.stride 32 or another backbone."
            ) from error
        if not pretrained:
            raise
        raise PoseZooError(
            f"ImageNet weights of {name} could not be fetched ({type(error).__name__}): go online once, or give a "
            "local file with --model.backbone_weights PATH."
        ) from error


def load_backbone_weights(body: nn.Module, path: Path) -> None:
    """Load a backbone's state dict (.safetensors, .pt, .pth); classifier weights are left out.

    Raises:
        PoseZooError: No such file, no state dict in it, or tensors that the backbone needs are missing or have other
            shapes.
    """
    if not path.is_file():
        raise PoseZooError(f"No backbone weights at {path}; check --model.backbone_weights.")
    state = read_tensors(path)
    wanted = body.state_dict()
    wrong = [k for k in wanted if k not in state or state[k].shape != wanted[k].shape]
    wrong = [k for k in wrong if not k.endswith("num_batches_tracked")]
    if wrong:
        raise PoseZooError(
            f"{path} does not fit the backbone: {len(wrong)} of {len(wanted)} tensors are missing or have another "
            f"shape (first: {wrong[0]})."
        )
    body.load_state_dict({k: v for k, v in state.items() if k in wanted}, strict=False)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A state dict from a file (.safetensors, .pt, .pth), without running code from it.

    Raises:
        PoseZooError: It cannot be read so.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        return dict(state.get("state_dict", state))
    except Exception as error:  # torch and safetensors raise half a dozen kinds for damaged files
        raise PoseZooError(
            f"{path} cannot be read as a state dict ({type(error).__name__}): give a .safetensors, .pt or .pth file."
        ) from error


class SlicedConv2d(nn.Conv2d):
    """A strided 1x1 convolution that takes the pixels it needs before it multiplies.

    The same numbers. oneDNN 3.12 (torch 2.14) writes beyond its buffers in the gradient of a strided one with fewer
    than 16 input channels and maps of 48 px or more, and the process dies.
    """

    @classmethod
    def from_conv(cls, conv: nn.Conv2d) -> "SlicedConv2d":
        """With the sizes and the weights of a 1x1 convolution without a bias."""
        stride: Any = conv.stride
        # On no device, so that no random number is drawn.
        sliced = cls(conv.in_channels, conv.out_channels, 1, stride, bias=False, device="meta")
        sliced.weight = conv.weight
        return sliced

    def forward(self, x: Tensor) -> Tensor:
        """As torch's."""
        rows, columns = self.stride
        return F.conv2d(x[..., ::rows, ::columns], self.weight, self.bias)


class ShiftedConv2d(nn.Conv2d):
    """A strided convolution that samples one input position later: odd positions instead of even ones."""

    @classmethod
    def from_conv(cls, conv: nn.Conv2d) -> "ShiftedConv2d":
        """The same layer, the same parameters, shifted."""
        shifted = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            0,
            conv.dilation,  # type: ignore[arg-type]
            conv.groups,
            conv.bias is not None,
            device="meta",
        )
        shifted.weight, shifted.bias = conv.weight, conv.bias
        before = int(conv.padding[0]) - 1
        shifted.shift = (before, before + 2) * 2
        return shifted

    shift: tuple[int, int, int, int]

    def forward(self, x: Tensor) -> Tensor:
        """Pads asymmetrically (or crops, for a 1x1 kernel), then convolves."""
        return super().forward(F.pad(x, self.shift))


class ShiftedMaxPool2d(nn.MaxPool2d):
    """The max-pooling of a ResNet stem, sampling one position later."""

    def forward(self, x: Tensor) -> Tensor:
        """Its input is non-negative (behind a ReLU), so zeros are as good as minus infinity."""
        before = int(self.padding) - 1  # type: ignore[arg-type]
        return F.max_pool2d(F.pad(x, (before, before + 2) * 2), self.kernel_size, self.stride)


@dataclass
class _Layer:
    """A layer of a network together with the place where it hangs, so that it can be replaced."""

    parent: nn.Module
    attribute: str

    @property
    def module(self) -> nn.Module:
        return getattr(self.parent, self.attribute)  # type: ignore[no-any-return]

    @property
    def stride(self) -> int:
        stride = getattr(self.module, "stride", 1)
        return int(stride[0]) if isinstance(stride, tuple) else int(stride)


def _units(body: nn.Module) -> list[list[_Layer]]:
    """Convolutions and poolings in forward order, in units of which each halves the resolution at most once.

    Begins behind the first strided convolution, which is alike in all known families.
    """
    network: Any = body
    family = type(body).__name__  # by name: importing timm for isinstance costs seconds
    if family == "ResNet":
        stages, head = [network.layer1, network.layer2, network.layer3, network.layer4], [_Layer(body, "maxpool")]
    elif family == "ResNetV2":
        stages, head = [stage.blocks for stage in network.stages], [_Layer(network.stem, "pool")]
    else:
        stages, head = list(network.blocks), []
    return [head, *[_layers(block) for stage in stages for block in stage]]


def _is_plain(body: nn.Module) -> bool:
    """Whether a network is of a known family and each of its halvings is one plain convolution or max-pooling.

    A shortcut beside it must be a 1x1 convolution: averaging ones (ResNet-D), blur pooling, mixed kernels and
    standardised weights have cells elsewhere, or would be damaged by our surgery.
    """
    if type(body).__name__ not in KNOWN_FAMILIES:
        return False
    halvings = [[layer.module for layer in unit if layer.stride == 2] for unit in _units(body)]
    halvings = [unit for unit in halvings if unit]
    kinds = (nn.Conv2d, SlicedConv2d, ShiftedConv2d, nn.MaxPool2d, ShiftedMaxPool2d)
    plain = all(type(module) in kinds for unit in halvings for module in unit)
    return plain and all(sum(module.kernel_size not in (1, (1, 1)) for module in unit) == 1 for unit in halvings)


def _layers(block: nn.Module) -> list[_Layer]:
    return [
        _Layer(parent, attribute)
        for parent in block.modules()
        for attribute, child in parent.named_children()
        if isinstance(child, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d)
    ]


def _restride(body: nn.Module, stride: int) -> None:
    """Replace strides beyond `stride` by dilation, in place: the same weights see the same pixels, more densely."""
    reached, dilation = 2, 1
    for unit in _units(body):
        removed = False
        if any(layer.stride == 2 for layer in unit):
            removed = reached == stride
            reached = reached if removed else 2 * reached
        for layer in unit:
            module, was_strided = layer.module, layer.stride == 2
            if isinstance(module, nn.Conv2d):
                _dilate(module, dilation)
                if was_strided and removed:
                    module.stride = (1, 1)
                    dilation *= 1 if module.kernel_size == (1, 1) else 2
            if is_depthwise(module):  # a dilated one's gradient is slow on a CPU, and wrong in bfloat16
                setattr(layer.parent, layer.attribute, DepthwiseConv2d.from_conv(module))


def _dilate(conv: nn.Conv2d, dilation: int) -> None:
    if dilation > 1 and conv.kernel_size != (1, 1):
        conv.dilation = (dilation, dilation)
        conv.padding = tuple(dilation * (k // 2) for k in conv.kernel_size)


def _centre(body: nn.Module) -> None:
    """Shift the last strided layer (and the shortcut beside it), in place."""
    strided = [[layer for layer in unit if layer.stride == 2] for unit in _units(body)]
    for layer in [unit for unit in strided if unit][-1]:
        module = layer.module
        if isinstance(module, nn.Conv2d):
            setattr(layer.parent, layer.attribute, ShiftedConv2d.from_conv(module))
        else:
            pool = cast(nn.MaxPool2d, module)
            shifted = ShiftedMaxPool2d(pool.kernel_size, pool.stride, pool.padding)
            setattr(layer.parent, layer.attribute, shifted)


def measure_offset(body: nn.Module, stride: int, height: int = 2688) -> float:
    """Pixel that cell 0 looks at, by the gradient centroid of a linearised, uniformly weighted copy of the network.

    Args:
        body: A timm network; its weights do not matter.
        stride: px per cell.
        height: Length of the strip that is looked at, px: its middle must lie farther from the ends than the
            receptive field reaches.

    Raises:
        PoseZooError: The network has no regular cells (global attention, say).
    """
    cell, centroids = height // stride // 2, []
    try:
        linear: Any = _linearised(copy.deepcopy(body))
        image = torch.zeros(1, 3, height, 64, dtype=torch.float64, requires_grad=True)
        for k in (cell, cell + 1):
            features = linear.forward_features(image)
            (gradient,) = torch.autograd.grad(features[:, :, k].sum(), image)
            mass = gradient[0].sum((0, 2))
            centroids.append(float((mass * torch.arange(len(mass))).sum() / mass.sum()))
    except Exception as error:  # a timm model may refuse the strip in many ways
        raise PoseZooError(
            f"{type(body).__name__} has no feature map whose cells could be located ({type(error).__name__}): choose a "
            "convolutional backbone."
        ) from error
    if not abs(centroids[1] - centroids[0] - stride) < 0.05:  # also not a number
        raise PoseZooError(
            f"{type(body).__name__} has no regular grid of cells (neighbours lie {centroids[1] - centroids[0]:.2f} px "
            f"apart, not {stride}): choose another backbone, or a plain ResNet."
        )
    return round(centroids[0] - stride * cell, 3) + 0.0  # no minus zero


# Layers that a linear network keeps as they are; BlurPool2d is timm's.
_LINEAR_LAYERS = ("AvgPool2d", "AvgPool2dSame", "BlurPool2d", "ConstantPad2d", "ZeroPad2d", "Upsample")
# Channel attention has children and is no place to look for position; it becomes an identity as a whole.
_GATES = ("SqueezeExcite", "SEModule", "EffectiveSEModule", "EcaModule")


def _linearised(body: nn.Module) -> nn.Module:
    """On the CPU in float64: all weights positive and equal, no biases, norms and activations as identities."""
    body = body.cpu().double().eval()
    for parent in list(body.modules()):
        for attribute, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d | nn.Linear):
                nn.init.constant_(child.weight, 1.0 / child.weight[0].numel())
                if child.bias is not None:
                    nn.init.zeros_(child.bias)
            elif isinstance(child, nn.MaxPool2d):
                mean = nn.AvgPool2d(child.kernel_size, child.stride, child.padding)
                setattr(parent, attribute, _ShiftedAvgPool2d(mean) if isinstance(child, ShiftedMaxPool2d) else mean)
            elif type(child).__name__ in _LINEAR_LAYERS:
                continue
            # Leaves are norms and activations; timm's fused norm + activation layers have children.
            elif not list(child.children()) or hasattr(child, "running_mean") or type(child).__name__ in _GATES:
                setattr(parent, attribute, nn.Identity())
    return body


class _ShiftedAvgPool2d(nn.Module):
    def __init__(self, pool: nn.AvgPool2d) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        before = int(self.pool.padding) - 1  # type: ignore[arg-type]
        return F.avg_pool2d(F.pad(x, (before, before + 2) * 2), self.pool.kernel_size, self.pool.stride)
