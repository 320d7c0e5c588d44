"""Backbones: where their cells look, that dilation equals timm's, and every way to ask for the impossible."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from posezoo.errors import PoseZooError
from posezoo.models.backbones import (
    OWN_BACKBONES,
    Backbone,
    ShiftedConv2d,
    ShiftedMaxPool2d,
    SlicedConv2d,
    batch_norms,
    load_backbone_weights,
    measure_offset,
)

# Length of the strip that reaches beyond the receptive field of each network, px.
HEIGHT = {
    "resnet10_w8": 1344,
    "mobilenetv2_100": 1344,
    "resnet18": 1344,
    "resnet50": 1344,
    "resnetv2_50": 1344,
    "tf_efficientnetv2_s": 1344,
}
QUICK = [
    *[("resnet10_w8", stride) for stride in (32, 16, 8, 4)],
    *[("mobilenetv2_100", stride) for stride in (32, 16)],
    ("resnet18", 32),
    ("resnetv2_50", 32),
    ("tf_efficientnetv2_s", 32),
]
SLOW = [(name, stride) for name in HEIGHT for stride in (32, 16, 8, 4) if (name, stride) not in QUICK]
GRIDS = QUICK + [pytest.param(*grid, marks=pytest.mark.slow) for grid in SLOW]


def randomised(body: nn.Module, seed: int = 0) -> nn.Module:
    """Weights and statistics that no two layers share, at a scale that keeps deep features alive."""
    generator = torch.Generator().manual_seed(seed)
    for layer in batch_norms(body):
        layer.running_mean.normal_(0, 0.1, generator=generator)
        layer.running_var.uniform_(0.5, 1.5, generator=generator)
        nn.init.uniform_(layer.weight, 0.5, 1.5, generator=generator)
        nn.init.normal_(layer.bias, 0, 0.1, generator=generator)
    return body.eval()


def pixels(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- where cells look


@pytest.mark.parametrize(("name", "stride"), GRIDS)
def test_cells_look_at_their_pixels(name: str, stride: int) -> None:
    plain = Backbone(name, stride, centered_stride=False)
    centred = Backbone(name, stride)
    assert plain.cell_grid() == (stride, 0.0)
    assert centred.cell_grid() == (stride, stride / 2)
    assert measure_offset(plain.body, stride, HEIGHT[name]) == pytest.approx(0, abs=0.01)
    assert measure_offset(centred.body, stride, HEIGHT[name]) == pytest.approx(stride / 2, abs=0.01)


def test_tensorflow_padding_would_look_one_pixel_beside_the_next_cell() -> None:
    # The reason why tf_ models are made with symmetric padding.
    features = _linear_same_padding()
    image = torch.zeros(1, 3, 512, 64, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(features(image)[:, :, 8].sum(), image)
    mass = gradient[0].sum((0, 2))
    assert float((mass * torch.arange(512)).sum() / mass.sum()) == pytest.approx(32 * 8 + 31, abs=0.01)


def _linear_same_padding() -> Callable[[Tensor], Tensor]:
    """Five strided 3x3 convolutions with TensorFlow's SAME padding: on even sizes 0 before, 1 after."""
    conv = nn.Conv2d(3, 3, 3, stride=2, dtype=torch.float64)
    nn.init.constant_(conv.weight, 1 / 27)

    def features(x: Tensor) -> Tensor:
        for _ in range(5):
            x = conv(nn.functional.pad(x, (0, 1, 0, 1)))
        return x

    return features


@pytest.mark.parametrize("centered", [False, True])
def test_map_sizes(centered: bool) -> None:
    backbone = Backbone("resnet10_w8", centered_stride=centered).eval()
    for side, cells in ((256, 8), (384, 12), (64, 2)):
        assert backbone(pixels(1, 3, side, side)).shape == (1, backbone.channels, cells, cells)


@pytest.mark.parametrize(("name", "channels"), [("mobilenetv2_100", 1280), ("resnet10_w16", 128)])
def test_channels(name: str, channels: int) -> None:
    backbone = Backbone(name).eval()
    assert backbone.channels == channels
    assert backbone(pixels(1, 3, 64, 64)).shape[1] == channels


@pytest.mark.parametrize("layer", ["conv3", "conv1", "pool"])
def test_shifted_layers_sample_one_position_later(layer: str) -> None:
    x = torch.rand(1, 4, 16, 16)
    if layer == "pool":
        plain: nn.Module = nn.MaxPool2d(3, 1, 1)
        shifted: nn.Module = ShiftedMaxPool2d(3, 2, 1)
    else:
        kernel = int(layer[-1])
        conv = nn.Conv2d(4, 5, kernel, stride=2, padding=kernel // 2)
        shifted = ShiftedConv2d.from_conv(conv)
        plain = nn.Conv2d(4, 5, kernel, padding=kernel // 2)
        plain.load_state_dict(conv.state_dict())
        assert shifted.weight is conv.weight
    torch.testing.assert_close(shifted(x), plain(x)[:, :, 1::2, 1::2])


# ---------------------------------------------------------------- against timm


@pytest.mark.parametrize("stride", [16, 8])
@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_100", "resnetv2_50"])
def test_dilation_equals_timms_own_output_stride(name: str, stride: int) -> None:
    backbone = Backbone(name, stride, centered_stride=False)
    randomised(backbone.body)
    reference = timm.create_model(name, num_classes=0, global_pool="", output_stride=stride).eval()
    reference.load_state_dict(backbone.body.state_dict())
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    backbone.eval()
    with torch.no_grad():
        torch.testing.assert_close(
            backbone(image), reference.forward_features(backbone.normalise(image)), atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_100"])
def test_centring_moves_the_view_by_half_a_cell(name: str) -> None:
    # Shifting the image the other way by 16 px undoes centring, up to what the zero padding does at the borders.
    plain = Backbone(name, centered_stride=False)
    randomised(plain.body)
    centred = Backbone(name).eval()
    centred.body.load_state_dict(plain.body.state_dict())
    plain.eval()
    for parameters in (plain, centred):
        for layer in batch_norms(parameters):
            layer.running_mean.zero_()
            layer.bias.data.zero_()
    generator = torch.Generator().manual_seed(0)
    patch = torch.randn(1, 3, 32, 32, generator=generator) / 10
    patch = patch * plain.std
    image = plain.mean.expand(1, 3, 768, 768).clone()  # zero behind the normalisation
    moved = image.clone()
    image[:, :, 368:400, 368:400] += patch
    moved[:, :, 352:384, 352:384] += patch
    with torch.no_grad():
        torch.testing.assert_close(centred(image), plain(moved), atol=1e-5, rtol=1e-3)


def test_state_dict_keys_are_timms() -> None:
    for name in ("resnet18", "mobilenetv2_100", "resnetv2_50"):
        keys = list(timm.create_model(name, num_classes=0).state_dict())
        assert list(Backbone(name, stride_test=8).state_dict()) == [f"body.{key}" for key in keys]


# ---------------------------------------------------------------- another stride in evaluation


@pytest.mark.parametrize("name", ["resnet10_w8", "resnet18"])
def test_dense_cells_contain_the_coarse_ones(name: str) -> None:
    """Without centring (which moves the two grids apart) and without global pooling inside blocks."""
    dense = Backbone(name, 32, stride_test=8, centered_stride=False)
    randomised(dense.body)
    coarse = Backbone(name, 32, centered_stride=False).eval()
    coarse.body.load_state_dict(dense.body.state_dict())
    image = pixels(1, 3, 128, 128)
    dense.eval()
    with torch.no_grad():
        assert dense(image).shape[-1] == 16
        torch.testing.assert_close(dense(image)[:, :, ::4, ::4], coarse(image), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("centered", [False, True])
def test_evaluation_at_another_stride_uses_the_trained_weights(centered: bool) -> None:
    backbone = Backbone("resnet10_w8", 32, stride_test=8, centered_stride=centered)
    randomised(backbone.body)
    image = pixels(2, 3, 64, 64)
    assert backbone.train().cell_grid() == (32, 16.0 if centered else 0.0)
    assert backbone(image).shape[-1] == 2
    reference = Backbone("resnet10_w8", 8, centered_stride=centered).eval()
    reference.load_state_dict(backbone.state_dict())

    backbone.eval()
    assert backbone.cell_grid() == (8, 4.0 if centered else 0.0)
    with torch.no_grad():
        torch.testing.assert_close(backbone(image), reference(image))
        backbone.body.layer4[0].conv1.weight.mul_(2)  # a step of training
        assert not torch.allclose(backbone(image), reference(image))
    gradient = torch.autograd.grad(backbone(image).sum(), backbone.body.layer4[0].conv1.weight)[0]
    assert gradient.abs().sum() > 0


def test_the_view_at_another_stride_stays_out_of_state_and_optimiser() -> None:
    backbone, plain = Backbone("resnet10_w8", 32, stride_test=8), Backbone("resnet10_w8", 32)
    assert list(backbone.state_dict()) == list(plain.state_dict())
    assert len(list(backbone.parameters())) == len(list(plain.parameters()))


# ---------------------------------------------------------------- pixels in


def test_uint8_crops_are_normalised_as_in_pretraining() -> None:
    backbone = Backbone("resnet18").eval()  # ImageNet statistics
    image = pixels(1, 3, 8, 8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (image / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(backbone.normalise(image), expected)
    torch.testing.assert_close(backbone.normalise(image / 255), expected)
    own = Backbone("resnet10_w8").normalise(
        torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    )
    assert own.unique().tolist() == [-1, 1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_features_have_the_dtype_of_the_weights(dtype: torch.dtype) -> None:
    assert Backbone("resnet10_w8").eval().to(dtype)(pixels(1, 3, 64, 64)).dtype == dtype


def test_batch_norm_momentum() -> None:
    momenta = {layer.momentum for layer in batch_norms(Backbone("resnet10_w8", bn_momentum=0.01))}
    assert momenta == {0.01}


# ---------------------------------------------------------------- other families


def test_an_unknown_family_gets_its_measured_offset() -> None:
    backbone = Backbone("convnext_atto", centered_stride=False)
    assert backbone.cell_grid() == (32, 15.5)  # patches of 4, 2, 2, 2 px: (32 - 1) / 2


def test_an_unknown_family_is_measured_at_its_evaluation_stride_too() -> None:
    backbone = Backbone("regnety_002", stride_test=16, centered_stride=False).eval()
    assert backbone.cell_grid() == (16, 0.0)
    assert backbone(pixels(1, 3, 64, 64)).shape[-1] == 4


def test_averaging_shortcuts_are_measured_and_not_taken_for_plain_ones() -> None:
    backbone = Backbone("resnet26t", centered_stride=False)
    assert backbone.offset == pytest.approx(7.376, abs=0.01)


# ---------------------------------------------------------------- weights


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_local_weights(tmp_path: Path, suffix: str) -> None:
    donor = timm.create_model("resnet18")  # with its classifier, as published files have it
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(donor.state_dict(), path)
    else:
        state = donor.state_dict()
        torch.save({"state_dict": state} if suffix == ".pt" else state, path)
    backbone = Backbone("resnet18", 16, weights=str(path))
    for key, value in backbone.body.state_dict().items():
        assert torch.equal(value, donor.state_dict()[key])


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    state = Backbone("resnet10_w16").body.state_dict()
    save_file({key: value.contiguous() for key, value in state.items()}, path)  # safetensors knows no channels-last
    with pytest.raises(PoseZooError, match=r"does not fit the backbone: \d+ of \d+ tensors .* \(first: conv1"):
        Backbone("resnet10_w8", weights=str(path))


@pytest.mark.parametrize("name", ["noise.safetensors", "noise.pth", "list.pth"])
def test_files_that_are_no_weights(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "list.pth":
        torch.save([1, 2], path)
    else:
        path.write_bytes(b"not a tensor in sight")
    with pytest.raises(PoseZooError, match="cannot be read as a state dict"):
        load_backbone_weights(nn.Linear(1, 1), path)


def test_missing_weights() -> None:
    with pytest.raises(PoseZooError, match="No backbone weights at nowhere"):
        Backbone("resnet10_w8", weights="nowhere.pth")


def test_imagenet_weights_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(name: str, **options: Any) -> nn.Module:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(PoseZooError, match=r"resnet18 could not be fetched \(ConnectionError\): go online once, or"):
        Backbone("resnet18", weights="imagenet")


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet5O"}, "Unknown backbone 'resnet5O': did you mean .*resnet50"),
        ({"name": "resnet10_w9"}, "did you mean resnet10_w8"),
        ({"name": "resnet10_w8", "stride": 12}, "Strides are 4, 8, 16 or 32 px, got 12"),
        ({"name": "resnet10_w8", "stride_test": 64}, "Strides are 4, 8, 16 or 32 px, got 64"),
        ({"name": "resnet10_w8", "weights": "imagenet"}, "has no ImageNet weights"),
        ({"name": "convnext_atto"}, r"not available for convnext_atto \(ConvNeXt\): set --model.centered_stride false"),
        ({"name": "resnet26t"}, "Centred striding is not available for resnet26t"),
        ({"name": "resnetv2_50x1_bit"}, "Centred striding is not available for resnetv2_50x1_bit"),
        ({"name": "mixnet_s"}, "Centred striding is not available for mixnet_s"),
        ({"name": "mobilenetv3_small_100", "stride": 16, "centered_stride": False}, "cannot run at stride 16"),
        ({"name": "vit_tiny_patch16_224", "centered_stride": False}, "choose a convolutional backbone"),
    ],
)
def test_mistakes_are_one_sentence(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(PoseZooError, match=message) as caught:
        Backbone(**arguments)
    assert "\n" not in str(caught.value)


def test_own_backbones_are_small() -> None:
    sizes = [sum(p.numel() for p in build().parameters()) for build in OWN_BACKBONES.values()]
    assert max(sizes) < 3_000_000


def test_a_sliced_convolution_is_the_strided_one() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 16, 1, 2, bias=False)
    sliced = SlicedConv2d.from_conv(conv)
    image = torch.randn(2, 8, 9, 12)
    torch.testing.assert_close(sliced(image), conv(image))
    assert sliced.weight is conv.weight


@pytest.mark.parametrize("name", OWN_BACKBONES)
def test_no_backbone_of_ours_has_the_convolution_that_kills_onednn(name: str) -> None:
    """A strided 1x1 one of fewer than 16 input channels, in its gradient on maps of 48 px and more."""
    body = Backbone(name).body
    for conv in body.modules():
        if type(conv) is nn.Conv2d and conv.kernel_size == (1, 1):
            assert conv.in_channels >= 16 or conv.stride == (1, 1)
    training = body.train()(torch.randn(1, 3, 256, 256))
    training.square().sum().backward()  # would end the process
