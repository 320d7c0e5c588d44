"""Which detections are left out, by stated rules: poses that no person can have, and the same person twice.

The rules apply to people that a detector found. Boxes that the caller gave are never left out.

Implausible is a pose with
- a number that is not finite, or half of its joints behind the camera;
- a bone longer than 1 m, or no two joints 300 mm apart, or two joints 3.5 m apart;
- a 2D bounding box that covers less than a fifth of its detection (the network looked at somebody else);
- in test-time augmentation, three quarters of its joints spread by more than 200 mm over the views.

Duplicate is a pose so near to one of a higher score that one person explains both: seen from the camera at the same
mean depth, the quarter of joints that differ most score more than 0.4 in relu(1 - d / 300 mm) (the rule of the
released MeTRAbs). Two people who hug differ in more.
"""

import numpy as np
from numpy.typing import NDArray

from posezoo.skeletons import Skeleton

LONGEST_BONE = 1000.0  # mm
SMALLEST, LARGEST = 300.0, 3500.0  # mm between the two joints farthest apart
LEAST_COVER = 0.2  # share of the detection that the pose's own bounding box must cover
MOST_SPREAD, STEADY_SHARE = 200.0, 0.25  # mm; share of the joints that must spread less
DUPLICATE_REACH, DUPLICATE_LIMIT = 300.0, 0.4  # mm; similarity above which two poses are one

Floats = NDArray[np.float32]


def plausible(
    joints3d: Floats, joints2d: Floats, boxes: Floats, skeleton: Skeleton, spread: Floats | None = None
) -> NDArray[np.bool_]:
    """Which poses a person can have.

    Args:
        joints3d: [N, J, 3] mm, camera frame.
        joints2d: [N, J, 2] px; NaN for joints behind the camera.
        boxes: [N, 4] ltwh px.
        skeleton: Of the joints.
        spread: [N, J] mm, standard deviation of each joint over test-time augmentation.

    Returns:
        bool [N].
    """
    if not len(joints3d):
        return np.zeros(0, bool)
    finite: NDArray[np.bool_] = np.asarray(np.isfinite(joints3d).all((1, 2)))
    pose = np.where(finite[:, None, None], joints3d, 0)
    in_front = (pose[..., 2] > 0).mean(1) > 0.5
    parent, child = np.array(skeleton.bones).T
    longest = np.linalg.norm(pose[:, child] - pose[:, parent], axis=-1).max(1)
    extent = np.linalg.norm(pose[:, :, None] - pose[:, None], axis=-1).max((1, 2))
    kept: NDArray[np.bool_] = finite & in_front & (longest <= LONGEST_BONE) & (extent >= SMALLEST) & (extent <= LARGEST)
    kept &= covered_share(joints2d, boxes) >= LEAST_COVER
    if spread is not None:
        kept &= (spread <= MOST_SPREAD).mean(1) > STEADY_SHARE
    return kept


def covered_share(joints2d: Floats, boxes: Floats) -> NDArray[np.float64]:
    """Share of each box that the bounding box of its joints covers, [N]."""
    known = np.isfinite(joints2d).all(-1, keepdims=True)
    low = np.where(known, joints2d, np.inf).min(1)
    high = np.where(known, joints2d, -np.inf).max(1)
    inner_low, inner_high = np.maximum(low, boxes[:, :2]), np.minimum(high, boxes[:, :2] + boxes[:, 2:])
    overlap = np.clip(inner_high - inner_low, 0, None).astype(np.float64).prod(1)
    share: NDArray[np.float64] = overlap / np.maximum(boxes[:, 2:].astype(np.float64).prod(1), 1e-9)
    return share


def without_duplicates(joints3d: Floats, scores: Floats) -> NDArray[np.bool_]:
    """Which poses to keep when of two that show one person the one with the higher score stays.

    Args:
        joints3d: [N, J, 3] mm, camera frame, finite.
        scores: [N]; the first of equal ones stays.
    """
    kept = np.zeros(len(joints3d), bool)
    for row in np.argsort(-scores, kind="stable"):
        kept[row] = all(similarity(joints3d[row], joints3d[other]) <= DUPLICATE_LIMIT for other in np.flatnonzero(kept))
    return kept


def similarity(first: Floats, second: Floats) -> float:
    """0..1: 1 for equal poses, also where only the (uncertain) distance to the camera differs.

    Both are moved along their rays to a common mean depth before joints are compared.
    """
    depths = first[:, 2].mean(), second[:, 2].mean()
    if min(depths) <= 0:
        return 0.0
    common = np.sqrt(depths[0] * depths[1])
    distance = np.linalg.norm(first * (common / depths[0]) - second * (common / depths[1]), axis=-1)
    farthest = np.sort(distance)[-max(1, len(distance) // 4) :]
    return float(np.clip(1 - farthest / DUPLICATE_REACH, 0, None).mean())
