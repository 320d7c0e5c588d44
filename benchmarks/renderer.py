"""Images per CPU-second of the procedural renderer; `copy_gb_per_s` of the report is its yardstick."""

from itertools import cycle

import numpy as np

from benchmarks.cases import OURS, Bench, Case, Target, register
from posezoo.data.synthetic import PRESETS, SyntheticSample, render_sample


def reprojection(sample: SyntheticSample) -> float:
    """Largest distance, px, of a 2D joint from the projection of its 3D one in float64."""
    points = sample.joints3d.astype(np.float64) @ sample.intrinsics.astype(np.float64).T
    ahead = points[..., 2] > 100
    return float(np.abs(points[..., :2] / points[..., 2:] - sample.joints2d)[ahead].max())


def make(preset: str, size: int, quick: bool) -> Bench:
    size, count = (64, 2) if quick else (size, 40)
    indices = cycle(range(count))

    def call() -> None:
        for _ in range(count):
            render_sample(next(indices), size=size, preset=preset)

    def errors() -> dict[str, float]:
        samples = [render_sample(index, size=size, preset=preset) for index in range(count)]
        return {OURS: max(reprojection(sample) for sample in samples)}

    return Bench({OURS: call}, errors, {OURS: 0.01}, items=count)


register(
    *(
        Case(
            f"renderer/{preset}-{size}",
            make,
            {"preset": preset, "size": size},
            (Target("rate", 120.0),) if size == 256 else (),
            "px",
            most_rounds=5,
        )
        for preset in PRESETS
        for size in (128, 256)
    )
)
