"""Blurring images on the device, each with a kernel of its own."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def gaussian_blur(
    images: Float[Tensor, "batch channels rows columns"], sigma: Float[Tensor, " batch"], radius: int
) -> Float[Tensor, "batch channels rows columns"]:
    """Gaussian blur with a standard deviation, px, for each image; 0 leaves it as it is.

    Args:
        images: Mirrored at the border, without repeating its pixels.
        sigma: May be 0.
        radius: Half the side of the kernels; three times the largest sigma is plenty.
    """
    place = torch.arange(-radius, radius + 1, device=images.device)
    weights = torch.exp(-0.5 * (place / sigma.clamp(min=1e-3)[:, None]).square())
    weights = weights / weights.sum(1, keepdim=True)
    return convolve_each(convolve_each(images, weights[:, None, :]), weights[:, :, None])


def convolve_each(
    images: Float[Tensor, "batch channels rows columns"], kernels: Float[Tensor, "batch high wide"]
) -> Float[Tensor, "batch channels rows columns"]:
    """Every image correlated with its own kernel of odd sides, about the kernel's centre."""
    high, wide = kernels.shape[1:]
    planes = F.pad(images.flatten(0, 1)[None], (wide // 2, wide // 2, high // 2, high // 2), mode="reflect")
    each = kernels.repeat_interleave(images.shape[1], 0)[:, None]
    return F.conv2d(planes, each, groups=len(each))[0].view_as(images)
