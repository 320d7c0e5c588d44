"""Lens distortion: OpenCV's rational thin-prism model and Human3.6M's own, of tensors, arrays and numbers.

Coordinates are normalised ones (x/z, y/z); coefficients are OpenCV's k1 k2 p1 p2 k3 k4 k5 k6 s1 s2 s3 s4.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from posezoo.heatmaps import is_transformed

NO_DISTORTION, OPENCV, H36M = 0, 1, 2
NUM_COEFFICIENTS = 12
SINGULAR = 1e-9  # a Jacobian of a smaller determinant: the lens folds there, and Newton's method has no step

# Arrays of NumPy or tensors, the same formulas for both.
Values = Any


@dataclass(frozen=True)
class Coefficients:
    """Of the lenses; every one is [..., 1], or a number where all lenses share it."""

    k: tuple[Values, Values, Values, Values, Values, Values]
    p: tuple[Values, Values]
    s: tuple[Values, Values, Values, Values]
    # Human3.6M's own formula lacks the factor 2 of OpenCV's x * (2 p1 y + 2 p2 x); its 2D labels are made with it.
    factor: Values

    @classmethod
    def of(cls, ordered: Sequence[Values], factor: Values) -> "Coefficients":
        """From the twelve in OpenCV's order."""
        k1, k2, p1, p2, k3, k4, k5, k6, *s = ordered
        return cls((k1, k2, k3, k4, k5, k6), (p1, p2), (s[0], s[1], s[2], s[3]), factor)

    @classmethod
    def of_tensors(cls, coefficients: Tensor, model: Tensor) -> "Coefficients":
        """From tensors [..., 12] and [...]."""
        factor = torch.where(model[..., None] == H36M, 1.0, 2.0).to(coefficients.dtype)
        return cls.of([c[..., None] for c in coefficients.unbind(-1)], factor)


@dataclass(frozen=True)
class Terms:
    """Intermediate terms of the distortion formula at normalised points; every term is [..., N]."""

    radial: Values
    radial_slope: Values  # derivative by r^2
    r2: Values
    tangential: Values


def terms(x: Values, y: Values, c: Coefficients) -> Terms:
    """What `bend` and `newton` share."""
    k1, k2, k3, k4, k5, k6 = c.k
    r2 = x * x + y * y
    top = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    bottom = 1 + r2 * (k4 + r2 * (k5 + r2 * k6))
    top_slope = k1 + r2 * (2 * k2 + 3 * r2 * k3)
    bottom_slope = k4 + r2 * (2 * k5 + 3 * r2 * k6)
    return Terms(
        radial=top / bottom,
        radial_slope=(top_slope * bottom - top * bottom_slope) / bottom**2,
        r2=r2,
        tangential=c.factor * (c.p[0] * y + c.p[1] * x),
    )


def distort(
    xy: Float[Tensor, "*batch n 2"], coefficients: Float[Tensor, "*batch 12"], model: Int[Tensor, "*batch"]
) -> Float[Tensor, "*batch n 2"]:
    """Ideal normalised coordinates to distorted ones (OpenCV's rational thin-prism model, or Human3.6M's)."""
    x, y = xy.unbind(-1)
    lenses = Coefficients.of_tensors(coefficients, model)
    bent = torch.stack(bend(x, y, terms(x, y, lenses), lenses), -1)
    return torch.where((model == NO_DISTORTION)[..., None, None], xy, bent)


def bend(x: Values, y: Values, t: Terms, c: Coefficients) -> tuple[Values, Values]:
    """X and y of distorted points."""
    gain = t.radial + t.tangential
    (p1, p2), s, r2 = c.p, c.s, t.r2
    return x * gain + r2 * (p2 + s[0] + s[1] * r2), y * gain + r2 * (p1 + s[2] + s[3] * r2)


def undistort(
    xy: Float[Tensor, "*batch n 2"],
    coefficients: Float[Tensor, "*batch 12"],
    model: Int[Tensor, "*batch"],
    iterations: int = 6,
) -> Float[Tensor, "*batch n 2"]:
    """Inverse of `distort` by Newton's method; meaningful where the lens model is invertible.

    The few points of a crop take NumPy, in float64 and no more steps than they need: with tensors it is hundreds of
    operations of microseconds each, which a loader pays for every crop.
    """
    few = _as_arrays(xy, coefficients, model)
    if few is not None:
        return torch.from_numpy(_undistort_few(*few, iterations, CONVERGED[xy.dtype])).to(xy.dtype)
    lenses = Coefficients.of_tensors(coefficients, model)
    x, y = wanted_x, wanted_y = xy.unbind(-1)
    for _ in range(iterations):
        dx, dy, det = newton(x, y, wanted_x, wanted_y, lenses)
        det = torch.where(det.abs() < SINGULAR, torch.ones_like(det), det)
        x, y = x - dx / det, y - dy / det
    return torch.where((model == NO_DISTORTION)[..., None, None], xy, torch.stack([x, y], -1))


# Newton's steps shrink by squaring: behind one as short as this there is nothing left for the dtype to see.
CONVERGED = {torch.float32: 1e-5, torch.float64: 1e-9}
_FEW = 4096  # points; more are better off with the threads and the vector units of PyTorch


_Arrays = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]


def _as_arrays(xy: Tensor, coefficients: Tensor, model: Tensor) -> _Arrays | None:
    """NumPy views; None where there may be none (devices, gradients, tracing, vmap), or for many points."""
    if xy.dtype not in CONVERGED or xy.numel() > 2 * _FEW or is_transformed(xy) or is_transformed(coefficients):
        return None
    given = (xy, coefficients, model)
    if any(value.device.type != "cpu" or value.requires_grad for value in given):
        return None
    try:
        return xy.numpy(), coefficients.numpy(), model.numpy()
    except RuntimeError:  # fake tensors, which have no memory to look at
        return None


def _undistort_few(
    xy: NDArray[Any], coefficients: NDArray[Any], model: NDArray[Any], iterations: int, done: float
) -> NDArray[np.float64]:
    """`undistort` until the longest step is shorter than `done`."""
    shape = np.broadcast_shapes(xy.shape[:-2], coefficients.shape[:-1], model.shape)
    lenses = _lenses_of(coefficients.astype(np.float64), np.where(model[..., None] == H36M, 1.0, 2.0))
    wanted_x, wanted_y = np.moveaxis(xy.astype(np.float64), -1, 0)
    x, y = wanted_x, wanted_y
    with np.errstate(all="ignore"):  # points beyond the reach of a lens are not meaningful, here as there
        for _ in range(iterations):
            dx, dy, det = newton(x, y, wanted_x, wanted_y, lenses)
            det[np.abs(det) < SINGULAR] = 1.0
            dx, dy = dx / det, dy / det
            x, y = x - dx, y - dy
            if max(np.abs(dx).max(initial=0.0), np.abs(dy).max(initial=0.0)) < done:
                break
    found: NDArray[np.float64] = np.where((model == NO_DISTORTION)[..., None, None], xy, np.stack([x, y], -1))
    return found if found.shape[:-2] == shape else np.broadcast_to(found, (*shape, *xy.shape[-2:])).copy()


def _lenses_of(coefficients: NDArray[np.float64], factor: NDArray[np.float64]) -> Coefficients:
    """Numbers for what is zero in every lens or the same in all: cheaper than arrays."""
    rows = coefficients.reshape(-1, NUM_COEFFICIENTS)
    if len(rows) and (rows == rows[0]).all() and (factor == factor.flat[0]).all():
        return Coefficients.of(rows[0].tolist(), float(factor.flat[0]))
    return Coefficients.of([coefficients[..., i, None] for i in range(NUM_COEFFICIENTS)], factor)


def newton(x: Values, y: Values, wanted_x: Values, wanted_y: Values, c: Coefficients) -> tuple[Values, Values, Values]:
    """Determinant of the Jacobian, and the step of Newton's method times it."""
    lens = terms(x, y, c)
    bent_x, bent_y = bend(x, y, lens, c)
    dx, dy = bent_x - wanted_x, bent_y - wanted_y
    a, b, c_, d = _jacobian(x, y, lens, c)
    return d * dx - b * dy, a * dy - c_ * dx, a * d - b * c_


def _jacobian(x: Values, y: Values, t: Terms, c: Coefficients) -> tuple[Values, Values, Values, Values]:
    (p1, p2), s = c.p, c.s
    gain = t.radial + t.tangential
    gain_x = 2 * x * t.radial_slope + c.factor * p2
    gain_y = 2 * y * t.radial_slope + c.factor * p1
    prism_x = 2 * (p2 + s[0] + 2 * s[1] * t.r2)
    prism_y = 2 * (p1 + s[2] + 2 * s[3] * t.r2)
    return (
        gain + x * gain_x + x * prism_x,
        x * gain_y + y * prism_x,
        y * gain_x + x * prism_y,
        gain + y * gain_y + y * prism_y,
    )
