"""Procedural people with exact ground truth: the default data set, rendered on the fly by NumPy and OpenCV.

    streams   random numbers: every stage of a sample has its own
    body      proportions, looks, and the solids of flesh and clothes
    pose      what people do, joint limits, kinematics, retargeted mocap
    people    a dressed, posed body on the ground, and the room it takes up
    scene     presets, cameras, companions, furniture: everything a frame shows
    raster    solids and quads into one depth buffer
    shade     textures, light, walls, floors, sensor
    sample    drawing, and labels read off the buffers
    cache     rendered subjects on disk
    device    people of whole batches drawn on a GPU, with torch; all the others do without

What is modelled: both sexes alike often, six mixed skin tones, builds of 0.75 to 1.3, 6 % children; every heading; 13
classes of poses that are plausible rather than captured. What is not: faces beyond eyes and a mouth, single fingers,
contact forces, motion. Numbers measured on these people say which of two methods is better here; they are not
comparable with Human3.6M or MPI-INF-3DHP.
"""

from posezoo.data.synthetic.body import PART_NAMES
from posezoo.data.synthetic.cache import build_cache, cache_name, open_cache
from posezoo.data.synthetic.pose import POSE_CLASSES
from posezoo.data.synthetic.sample import SyntheticSample, render_sample
from posezoo.data.synthetic.scene import PRESETS, SPLITS, Preset
from posezoo.data.synthetic.streams import GENERATOR_VERSION, SyntheticDataError

__all__ = [
    "GENERATOR_VERSION",
    "PART_NAMES",
    "POSE_CLASSES",
    "PRESETS",
    "SPLITS",
    "Preset",
    "SyntheticDataError",
    "SyntheticSample",
    "build_cache",
    "cache_name",
    "open_cache",
    "render_sample",
]
