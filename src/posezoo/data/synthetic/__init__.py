"""Procedural people with exact ground truth: the default data set, rendered on the fly."""

from posezoo.data.synthetic.body import PART_NAMES
from posezoo.data.synthetic.cache import build_cache, cache_name, open_cache
from posezoo.data.synthetic.pose import POSE_CLASSES
from posezoo.data.synthetic.sample import SyntheticSample, render_sample
from posezoo.data.synthetic.scene import PRESETS, SPLITS, Preset
from posezoo.data.synthetic.streams import GENERATOR_VERSION

__all__ = [
    "GENERATOR_VERSION",
    "PART_NAMES",
    "POSE_CLASSES",
    "PRESETS",
    "SPLITS",
    "Preset",
    "SyntheticSample",
    "build_cache",
    "cache_name",
    "open_cache",
    "render_sample",
]
