"""What `scores` are worth: do they tell wrong joints from right ones, and hidden ones from visible ones?

    python -m benchmarks.score_quality CHECKPOINT --count 500

Renders the first people of SyntheticPeople's `full` test split, finds their poses from true boxes and cameras, and
prints the area under the ROC curve of the score for "root-relative error above 150 mm" (0.5: by chance; the share of
pairs of a wrong and a right joint in which the wrong one has the lower score), and mean scores by visibility.
"""

import argparse
import sys

import numpy as np
from numpy.typing import NDArray

from posezoo.cameras import Camera
from posezoo.data.synthetic import render_sample
from posezoo.pipeline import PosePipeline, load
from posezoo.skeletons import SYNTHETIC25, conversion_weights, convert

WRONG = 150.0  # mm
TARGET = 0.65
KINDS = ("beyond the frame", "hidden by something else", "self-occluded", "visible")


def auroc(scores: NDArray[np.floating], wrong: NDArray[np.bool_]) -> float:
    """Share of (wrong, right) pairs in which the wrong one scores lower; ties count half. NaN without such pairs."""
    low, high = np.sort(scores[wrong]), scores[~wrong]
    if not len(low) or not len(high):
        return float("nan")
    below = np.searchsorted(low, high, "left") + np.searchsorted(low, high, "right")
    return float(below.mean() / (2 * len(low)))


def measure(pose: PosePipeline, count: int, split: str = "test") -> dict[str, NDArray[np.floating]]:
    """Scores, errors (mm) and visibility [count, J] of people of SyntheticPeople `full`; the root is left out."""
    weights = conversion_weights(SYNTHETIC25, pose.skeleton) > 0
    side = max(144, round(1.5 * pose.image_size))
    found: dict[str, list[NDArray[np.floating]]] = {"scores": [], "errors": [], "visibility": []}
    others = [joint for joint in range(len(pose.skeleton)) if joint != pose.model.root]
    for index in range(count):
        sample = render_sample(index, preset="full", split=split, size=side)
        people = pose(sample.image, sample.boxes[:1], Camera.create(sample.intrinsics))
        truth, _ = convert(sample.joints3d[0], None, SYNTHETIC25, pose.skeleton)
        root = pose.model.root
        relative = people.joints3d[0] - people.joints3d[0, root] - (truth - truth[root])
        seen = np.where(weights, sample.visibility[0], 3).min(1)  # a derived joint is seen as its parts are
        found["scores"].append(people.scores[0, others])
        found["errors"].append(np.linalg.norm(relative, axis=-1)[others])
        found["visibility"].append(seen[others])
    return {name: np.array(values) for name, values in found.items()}


def report(found: dict[str, NDArray[np.floating]]) -> str:
    """The numbers in words."""
    scores, wrong, visibility = found["scores"], found["errors"] > WRONG, found["visibility"]
    area = auroc(scores, wrong)
    lines = [
        f"{len(scores)} people of SyntheticPeople full (test), {scores.size} joints: MPJPE without the root "
        f"{found['errors'].mean():.1f} mm, {wrong.mean():.1%} of joints off by more than {WRONG:g} mm",
        f"AUROC of the score for such an error: {area:.3f} (target {TARGET}: {'met' if area >= TARGET else 'missed'})",
    ]
    for kind, name in enumerate(KINDS):
        chosen = visibility == kind
        if chosen.any():
            lines.append(
                f"  {name:<26}{chosen.mean():6.1%} of joints, mean score {scores[chosen].mean():.3f}, mean error "
                f"{found['errors'][chosen].mean():.0f} mm"
            )
    hidden = visibility < len(KINDS) - 1
    lines.append(f"hidden joints {scores[hidden].mean():.3f}, visible joints {scores[~hidden].mean():.3f}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """1 when the target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.score_quality", description=__doc__)
    parser.add_argument("weights", nargs="?", default=None, help="name, folder or .ckpt (default: the bundled MeTRAbs)")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--split", default="test", choices=("train", "val", "test"))
    arguments = parser.parse_args(argv)
    pose = load(arguments.weights, "cpu", detector="none")
    found = measure(pose, arguments.count, arguments.split)
    print(report(found))
    return 0 if auroc(found["scores"], found["errors"] > WRONG) >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
