"""Reference formulations, written anew from what the published codes compute. Each is checked against float64."""

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from posezoo.models.backbones import Backbone

Network = TypeVar("Network", bound=nn.Module)


def as_published(network: Network) -> Network:
    """The same network with packed (NCHW) weights and activations, as published codes run theirs; changed in place.

    Posezoo's backbones are channels last by themselves.
    """
    network.to(memory_format=torch.contiguous_format)
    for module in network.modules():
        if isinstance(module, Backbone):
            own: Any = module.normalise
            module.normalise = _Packed(own)  # type: ignore[method-assign,assignment]
    return network


class _Packed:
    def __init__(self, function: Any) -> None:
        self.function = function

    def __call__(self, image: Tensor) -> Tensor:
        found: Tensor = self.function(image)
        return found.contiguous()


def soft_argmax(logits: Tensor) -> Tensor:
    """Softmax over the volume [B, J, D, H, W], three marginal sums, expectation: [B, J, 3] in cells (x, y, z).

    In the dtype of the logits up to the marginals, as 3DMPPE and the HEMlets release have it.
    """
    batch, joints, depth, height, width = logits.shape
    volume = logits.reshape(batch, joints, -1).softmax(2).reshape(batch, joints, depth, height, width)
    sums = (volume.sum((2, 3)), volume.sum((2, 4)), volume.sum((3, 4)))
    places = [torch.arange(s.shape[-1], dtype=torch.promote_types(s.dtype, torch.float32)) for s in sums]
    return torch.stack([(s * place).sum(-1) for s, place in zip(sums, places, strict=True)], -1)


def reconstruct(pixels: Tensor, rel: Tensor, intrinsics: Tensor, inside: Tensor, ridge: float = 1e-2) -> Tensor:
    """MeTRAbs' absolute pose: batched least squares for the translation, conditioned over the whole batch.

    Joints inside the image are then averaged with their back-projection. With ridge 0, plain least squares.
    """
    ones = torch.ones_like(pixels[..., :1])
    rays = (torch.cat([pixels, ones], -1) @ torch.linalg.inv(intrinsics).mT)[..., :2]
    target = rays * rel[..., 2:] - rel[..., :2]
    scale_rays, scale_target = rays.square().mean().sqrt(), target.square().mean().sqrt()
    batch, joints = rays.shape[:2]
    rows = torch.zeros(batch, joints, 2, 3, dtype=rays.dtype)
    rows[:, :, 0, 0], rows[:, :, 1, 1] = 1, 1
    rows[..., 2] = -rays / scale_rays
    weight = (inside.to(rays.dtype) + 1e-4)[..., None, None]
    rows = (weight * rows).reshape(batch, 2 * joints, 3)
    right = (weight[..., 0] * target / scale_target).reshape(batch, 2 * joints, 1)
    if ridge:
        damping = ridge**0.5 * torch.eye(3, dtype=rays.dtype).expand(batch, 3, 3)
        rows, right = torch.cat([rows, damping], 1), torch.cat([right, right.new_zeros(batch, 3, 1)], 1)
    found = torch.linalg.lstsq(rows, right).solution[..., 0] * scale_target
    moved = rel + torch.cat([found[:, :2], found[:, 2:] / scale_rays], -1)[:, None]
    back_projected = torch.cat([rays, ones], -1) * moved[..., 2:]
    return torch.where(inside[..., None], (moved + back_projected) / 2, moved)
