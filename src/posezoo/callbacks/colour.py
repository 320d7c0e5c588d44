"""Colour jitter and blur of training crops on the device, for whole batches, instead of one by one in the loaders."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from posezoo.data.batch_blur import gaussian_blur
from posezoo.data.photometric import BLUR_SIGMA, RANGES
from posezoo.errors import PoseZooError

_DOMAIN = 0xC010  # keeps these draws apart from the loaders' and from `seed_step`'s
_GREY = (0.299, 0.587, 0.114)
_BLUR_RADIUS = 5  # px: more than three standard deviations of the widest blur


class ColourOnDevice(pl.Callback):
    """What `augmentation.colour` and `augmentation.blur` do, on the model's device (`callbacks+=ColourOnDevice`).

    The same ranges as in the loaders; the order of the four changes is drawn once for a batch instead of for each crop,
    and covering rectangles are jittered too. Draws depend on (seed, batch number, rank), so a resumed run repeats them;
    they are made on the CPU and sent without waiting for the device.

    Args:
        blur: Probability of a slight Gaussian blur.
    """

    def __init__(self, blur: float = 0.0) -> None:
        if not 0 <= blur <= 1:
            raise PoseZooError(f"blur of ColourOnDevice is a probability, between 0 and 1, got {blur}.")
        self.blur = blur

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Refuse to change colours twice.

        Raises:
            PoseZooError: The loaders do it already.
        """
        if any(_jitters(augmentation) for augmentation in _augmentations(getattr(trainer, "datamodule", None))):
            raise PoseZooError(
                "The loaders change colours already, and ColourOnDevice would do it again: set "
                "--data.augmentation.colour=false and --data.augmentation.blur=0, or leave out the callback."
            )

    @torch.no_grad()
    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Change the images of the batch, in place of the old ones."""
        words = (_DOMAIN, int(os.environ.get("PL_GLOBAL_SEED") or 0), trainer.fit_loop.total_batch_idx)
        rng = np.random.default_rng((*words, trainer.global_rank))
        for part in _batches(batch):
            part["image"] = self.changed(part["image"], rng)

    def changed(
        self, images: UInt8[Tensor, "batch 3 rows columns"], rng: np.random.Generator
    ) -> UInt8[Tensor, "batch 3 rows columns"]:
        """Jittered images; equal generators give equal draws."""
        order = rng.permutation(list(RANGES))
        factors = {name: rng.uniform(*RANGES[name], len(images)) for name in RANGES}
        sigmas = np.where(rng.random(len(images)) < self.blur, rng.uniform(*BLUR_SIGMA, len(images)), 0.0)
        colours = images.float() / 255
        for name in order:
            colours = CHANGES[name](colours, _sent(factors[name], images.device)).clamp(0, 1)
        if sigmas.any():
            colours = gaussian_blur(colours, _sent(sigmas, images.device), _BLUR_RADIUS)
        return (colours * 255).round().to(torch.uint8)


def _sent(values: NDArray[np.float64], device: torch.device) -> Float[Tensor, " batch"]:
    """A draw per image on the device; from pinned memory, so that nobody waits for the copy."""
    draws = torch.from_numpy(values.astype(np.float32))
    return draws.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else draws.to(device)


def _batches(batch: Any) -> Iterator[dict[str, Any]]:
    """The batch, or the batches in it by name (train and architecture streams)."""
    if isinstance(batch, dict):
        if "image" in batch:
            yield batch
        else:
            yield from (part for value in batch.values() for part in _batches(value))


def _augmentations(data: Any) -> Iterator[Any]:
    """Of a DataModule and of those inside it."""
    if data is not None:
        yield getattr(data, "augmentation", None)
        for part in (*getattr(data, "sources", ()), getattr(data, "dataset", None)):
            yield from _augmentations(part)


def _jitters(augmentation: Any) -> bool:
    return augmentation is not None and bool(augmentation.colour or augmentation.blur)


# ------------------------------------------------------- changes of RGB 0..1 [B, 3, H, W] by one factor for each image


def grey(images: Float[Tensor, "batch 3 rows columns"]) -> Float[Tensor, "batch 1 rows columns"]:
    """Luminance."""
    red, green, blue = images.unbind(1)
    return (_GREY[0] * red + _GREY[1] * green + _GREY[2] * blue)[:, None]


def brighten(
    images: Float[Tensor, "batch 3 rows columns"], factor: Float[Tensor, " batch"]
) -> Float[Tensor, "batch 3 rows columns"]:
    """Times the factor."""
    return images * factor[:, None, None, None]


def contrast(
    images: Float[Tensor, "batch 3 rows columns"], factor: Float[Tensor, " batch"]
) -> Float[Tensor, "batch 3 rows columns"]:
    """Away from (or towards) the mean luminance of each image."""
    mean = grey(images).mean((1, 2, 3), keepdim=True)
    return mean + (images - mean) * factor[:, None, None, None]


def saturate(
    images: Float[Tensor, "batch 3 rows columns"], factor: Float[Tensor, " batch"]
) -> Float[Tensor, "batch 3 rows columns"]:
    """Away from (or towards) each pixel's luminance."""
    level = grey(images)
    return level + (images - level) * factor[:, None, None, None]


def turn_hue(
    images: Float[Tensor, "batch 3 rows columns"], turn: Float[Tensor, " batch"]
) -> Float[Tensor, "batch 3 rows columns"]:
    """Turns the hue of HSV by a share of the circle; value and saturation stay."""
    red, green, blue = images.unbind(1)
    value, least = images.amax(1), images.amin(1)
    chroma = value - least
    safe = chroma.clamp(min=1e-9)
    sixth = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    sixth = sixth + 6 * turn[:, None, None]
    # Each channel is a trapezium over the circle, one third of a turn from the next (Smith, 1978).
    channels = []
    for shift in (5.0, 3.0, 1.0):
        place = (sixth + shift).remainder(6)
        channels.append(value - chroma * torch.minimum(place, 4 - place).clamp(0, 1))
    return torch.stack(channels, 1)


CHANGES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": brighten,
    "contrast": contrast,
    "saturation": saturate,
    "hue": turn_hue,
}
