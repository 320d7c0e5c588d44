"""Root depth by bone lengths: the grid search of the HEMlets release, pose by pose, beside Gauss-Newton."""

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.cases import OURS, REFERENCE, Bench, Case, Target, register
from posezoo.lifting import HEMLETS_RELEASED_BONES, hemlets_released, root_depth_from_bones

Array = NDArray[np.float64]

FOCAL, CENTRE, JOINTS = 1150.0, 500.0, 17
PARENT, CHILD, LENGTH = (np.array(column) for column in zip(*HEMLETS_RELEASED_BONES, strict=True))
BONES = tuple(zip(PARENT.tolist(), CHILD.tolist(), strict=True))
SPINE = (7, 8, 260.0)  # the release leaves this bone out


def people(count: int) -> tuple[Array, Array, Array]:
    """Pixels, root-relative depths and root depths (mm) of people with exactly the release's bones."""
    rng = np.random.default_rng(0)
    joints = np.zeros((count, JOINTS, 3))
    for parent, child, length in sorted([*HEMLETS_RELEASED_BONES, SPINE], key=lambda bone: bone[1]):
        way = rng.standard_normal((count, 3))
        joints[:, child] = joints[:, parent] + length * way / np.linalg.norm(way, axis=1, keepdims=True)
    root = np.stack([rng.uniform(-500, 500, count), rng.uniform(-300, 300, count), rng.uniform(3000, 7000, count)], -1)
    points = joints + root[:, None]
    return FOCAL * points[..., :2] / points[..., 2:] + CENTRE, joints[..., 2], root[:, 2]


def grid_search(pixels: Array, depth_rel: Array) -> Array:
    """Root depths, mm: one pose and one candidate after the other."""
    return np.array([_search(p, z) for p, z in zip(pixels, depth_rel, strict=True)])


def _search(pixels: Array, depth_rel: Array) -> float:
    coarse = _best(pixels, depth_rel, np.arange(13) * 0.5 + 2.0)
    return FOCAL * _best(pixels, depth_rel, coarse + (np.arange(10) - 5) * 0.1)


def _best(pixels: Array, depth_rel: Array, scales: Array) -> float:
    best, least = 0.0, np.inf
    for scale in scales:
        depth = depth_rel / FOCAL + scale
        points = np.concatenate([(pixels - CENTRE) * depth[:, None], FOCAL * depth[:, None]], 1)
        error = np.abs(np.linalg.norm(points[CHILD] - points[PARENT], axis=1) - LENGTH).mean()
        if error < least:
            best, least = float(scale), float(error)
    return best


def make(compat: bool, quick: bool) -> Bench:
    pixels, depth_rel, truth = people(100 if quick else 1000)
    tensors = torch.from_numpy(pixels).float(), torch.from_numpy(depth_rel).float()
    camera = torch.tensor([[FOCAL, 0, CENTRE], [0, FOCAL, CENTRE], [0, 0, 1]]).expand(len(pixels), 3, 3)
    lengths = torch.from_numpy(LENGTH).float()

    def ours() -> NDArray[np.float32]:
        if compat:  # it returns joints; the depth of a joint is its own plus the root's
            return (hemlets_released(*tensors)[:, 0, 2] - tensors[1][:, 0]).numpy()
        return root_depth_from_bones(*tensors, camera, BONES, lengths).numpy()

    calls = {REFERENCE: lambda: grid_search(pixels, depth_rel), OURS: ours}

    def errors() -> dict[str, float]:
        return {name: float(np.median(np.abs(call() - truth))) for name, call in calls.items()}

    # Steps of 115 mm: the nearest grid point is 29 mm off in the median, and the cost is not the distance.
    return Bench(calls, errors, {REFERENCE: 60.0, OURS: 60.0 if compat else 1.0}, items=len(pixels))


register(
    Case("root_depth/gauss-newton", make, {"compat": False}, (Target("speed", 25.0),), "mm", most_rounds=5),
    Case("root_depth/same-grid", make, {"compat": True}, (Target("speed", 25.0),), "mm", most_rounds=5),
)
