"""PA-MPJPE: a loop over samples in NumPy beside `posezoo.metrics.functional.pa_mpjpe`."""

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.cases import OURS, REFERENCE, Bench, Case, Target, register
from posezoo.metrics.functional import pa_mpjpe

Array = NDArray[np.float64]


def align(source: Array, target: Array) -> Array:
    """One pose onto another by the best similarity."""
    source_mean, target_mean = source.mean(0), target.mean(0)
    a, b = source - source_mean, target - target_mean
    u, stretch, vh = np.linalg.svd(a.T @ b)
    if np.linalg.det(u @ vh) < 0:
        vh[-1] *= -1
        stretch[-1] *= -1
    return stretch.sum() / (a**2).sum() * a @ (u @ vh) + target_mean


def loop(pred: Array, target: Array) -> float:
    """mm; one sample after the other, as mmpose, 3DMPPE and the HEMlets release do it."""
    errors = [np.linalg.norm(align(p, t) - t, axis=-1).mean() for p, t in zip(pred, target, strict=True)]
    return float(np.mean(errors))


def oracle(pred: Array, target: Array) -> float:
    """mm; all samples at once in float64, the rotation from Horn's quaternion instead of an SVD."""
    a, b = (poses - poses.mean(1, keepdims=True) for poses in (pred, target))
    m = a.transpose(0, 2, 1) @ b
    trace = np.trace(m, axis1=1, axis2=2)
    horn = np.empty((len(m), 4, 4))
    horn[:, 0, 0] = trace
    twist = np.stack([m[:, 1, 2] - m[:, 2, 1], m[:, 2, 0] - m[:, 0, 2], m[:, 0, 1] - m[:, 1, 0]], -1)
    horn[:, 0, 1:] = horn[:, 1:, 0] = twist
    horn[:, 1:, 1:] = m + m.transpose(0, 2, 1) - trace[:, None, None] * np.eye(3)
    overlap = np.linalg.eigvalsh(horn)[:, -1]
    quaternion = np.linalg.eigh(horn)[1][..., -1]
    w, v = quaternion[:, :1, None], quaternion[:, None, 1:]
    turned = a + 2 * w * np.cross(v, a) + 2 * np.cross(v, np.cross(v, a))
    scale = overlap / (a**2).sum((1, 2))
    return float(np.linalg.norm(scale[:, None, None] * turned - b, axis=-1).mean())


def make(poses: int, quick: bool) -> Bench:
    rng = np.random.default_rng(0)
    target = 250 * rng.standard_normal((min(poses, 500) if quick else poses, 17, 3))
    pred = 0.9 * target + 60 * rng.standard_normal(target.shape) + 500
    tensors = torch.from_numpy(pred).float(), torch.from_numpy(target).float()
    calls = {REFERENCE: lambda: loop(pred, target), OURS: lambda: float(pa_mpjpe(*tensors))}

    def errors() -> dict[str, float]:
        exact = oracle(pred, target)
        return {name: abs(call() - exact) for name, call in calls.items()}

    return Bench(calls, errors, {REFERENCE: 1e-6, OURS: 1e-3}, items=len(pred))


register(
    Case("pa_mpjpe/10k", make, {"poses": 10_000}, (), "mm", most_rounds=7),
    Case("pa_mpjpe/100k", make, {"poses": 100_000}, (Target("speed", 8.0),), "mm", most_rounds=3),
)
