"""Kernels for a GPU, and whether to use them: in Triton, each with the plain formulation that it must agree with.

Nothing here imports Triton until a tensor on a GPU asks. `POSEZOO_TRITON=0` turns the kernels off. Where Triton is
missing, does not compile or computes something else, one warning says so and the plain formulation is used instead.
"""

import logging
import os
from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

Kernel = Literal["soft-argmax", "rasteriser"]

SWITCH = "POSEZOO_TRITON"
_DEVICES = ("cuda",)  # tests that interpret kernels add the CPU
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_ROUNDING = 1e-5  # what float32 sums in another order may be off by, relative to the largest coordinate or gradient

_log = logging.getLogger("posezoo")


def usable(tensor: Tensor, kernel: Kernel) -> bool:
    """Whether a kernel may work on this tensor: on a GPU, of a type that it knows, not switched off, and sound."""
    return (
        tensor.device.type in _DEVICES
        and tensor.dtype in _DTYPES
        and tensor.numel() > 0
        and os.environ.get(SWITCH) != "0"
        and _sound(tensor.device, kernel)
    )


@lru_cache
def _sound(device: torch.device, kernel: Kernel) -> bool:
    """Once per device: compile a kernel, run it on something small, and compare with the plain formulation."""
    try:
        wrong = _DEVIATIONS[kernel](device)
    except Exception as error:  # a missing library, driver or compiler raises nearly anything
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
        return _fallen_back(kernel, f"does not run on {device} ({reason[:200]})")
    if not wrong <= 1:
        return _fallen_back(kernel, f"is off by {wrong:.1f} times what rounding explains on {device}")
    return True


def _fallen_back(kernel: Kernel, reason: str) -> bool:
    _log.warning("The %s in Triton %s: plain PyTorch does it instead; %s=0 avoids the attempt.", kernel, reason, SWITCH)
    return False


@torch.inference_mode(False)  # whatever the caller is in the middle of: gradients are needed here
@torch.enable_grad()
def _soft_argmax_deviation(device: torch.device) -> float:
    """Largest error of coordinates and gradients over what rounding explains: both layouts, every type."""
    from posezoo.heatmaps import soft_argmax
    from posezoo.kernels.soft_argmax import locate, pull

    worst = 0.0
    for dtype in _DTYPES:
        packed = torch.linspace(-4, 4, 2 * 3 * 4 * 5 * 6, device=device).sin().mul(3).to(dtype).view(2, 3, 4, 5, 6)
        for volumes in (packed, packed.permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2)):
            exact = volumes.double().requires_grad_()
            expected = soft_argmax(exact, 3, fused=False)
            (gradient,) = torch.autograd.grad(expected.sum(), exact)
            found = locate(volumes, "corners")
            pulled = pull(volumes, found, torch.ones_like(found.coords), "corners", torch.empty_like(volumes))
            off = float((found.coords - expected).detach().abs().max()) / _ROUNDING
            pulled_off = float((pulled - gradient).abs().max() / gradient.abs().max())
            worst = max(worst, off, pulled_off / max(_ROUNDING, torch.finfo(dtype).eps))
    return worst


def _rasteriser_deviation(device: torch.device) -> float:
    """Largest error of the depth of three spheres and a tube, over what rounding explains; infinite for wrong ids."""
    from posezoo.data.synthetic.device import rasterise_plainly
    from posezoo.kernels.rasterise import rasterise_tiles

    nothing, endless = [0.0] * 4, [0.0, float("inf")]
    sphere = [900.0, 0, -1, 0, 0, -1, 1, 0, 0, 0, 0, 0]  # sqrt(Q) over 1: a bulge of 30 px
    tube = [400.0, 0, -1, 0, 0, 0, -1, 0, 0, 0, 0, 0, -2050, 0, 0, 0, 0, 1 / 2000, 0, 12]  # |v| below 12
    table = [*([*sphere, 2000.0 + 10 * k, k / 9, *nothing, *endless] for k in range(3)), tube]
    boxes = [[5 * k, 3 * k, 5 * k + 40, 3 * k + 40, 5 * k + 20, 3 * k + 20, k] for k in range(4)]
    quadrics, places = torch.tensor([table], device=device), torch.tensor([boxes], device=device, dtype=torch.int32)
    depths, names = [], []
    for draw in (rasterise_plainly, rasterise_tiles):
        depth = torch.full((1, 45, 50), float("inf"), device=device)
        ids = torch.full((1, 45, 50), -1, device=device, dtype=torch.int16)
        draw(quadrics, places, depth, ids)
        depths.append(depth)
        names.append(ids)
    if not torch.equal(*names):
        return float("inf")
    drawn = names[0] >= 0
    return float((depths[0] - depths[1])[drawn].abs().max() / depths[0][drawn].max()) / _ROUNDING


_DEVIATIONS: dict[Kernel, Callable[[torch.device], float]] = {
    "soft-argmax": _soft_argmax_deviation,
    "rasteriser": _rasteriser_deviation,
}
