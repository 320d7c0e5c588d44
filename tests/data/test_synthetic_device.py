"""The renderer for a device, run on the CPU, against the one in NumPy."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from posezoo.data.synthetic import PRESETS, SyntheticDataError, SyntheticSample, render_sample
from posezoo.data.synthetic.device import (
    PreparedFrame,
    photograph,
    prepare_frame,
    render_batch,
    to_samples,
)
from posezoo.data.synthetic.shade import Sensor, apply_sensor

SIZE = 72
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
PERFECT = {name: replace(preset, sensor=False) for name, preset in PRESETS.items()}  # without a sensor
# Companions, furniture, an overlay (full 31), a cut person; one room moved, one redrawn.
SCENES = [
    {"index": 0, "preset": PERFECT["multi"]},
    {"index": 31, "preset": PERFECT["full"]},
    {"index": 3, "preset": PERFECT["truncated"], "split": "test"},
    {"index": 5, "preset": PERFECT["easy"], "scene_seed": 1},
    {"index": 7, "preset": PERFECT["full"], "window_shift": (0.2, -0.1), "seed": 2},
]


@pytest.fixture(scope="module")
def frames() -> list[PreparedFrame]:
    return [prepare_frame(**scene, size=SIZE) for scene in SCENES]  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU])])
def drawn(request: pytest.FixtureRequest, frames: list[PreparedFrame]) -> list[SyntheticSample]:
    return to_samples(frames, render_batch(frames, request.param))


@pytest.fixture(scope="module")
def expected() -> list[SyntheticSample]:
    return [render_sample(**scene, size=SIZE, return_depth=True, return_parts=True) for scene in SCENES]  # type: ignore[arg-type]


def test_the_scenes_show_what_they_should(frames: list[PreparedFrame]) -> None:
    assert [frame.front is not None for frame in frames].count(True) >= 1
    assert max(len(frame.composition.people) for frame in frames) > 1
    assert any(frame.composition.scene.boxes for frame in frames)


def test_pixels_are_those_of_numpy(drawn: list[SyntheticSample], expected: list[SyntheticSample]) -> None:
    """At least 99.9 % within one grey level; people included, not only the room that NumPy has drawn."""
    differences = [np.abs(a.image.astype(int) - b.image).max(-1) for a, b in zip(drawn, expected, strict=True)]
    people = [sample.person_id >= 0 for sample in expected]  # type: ignore[operator]
    assert np.mean(np.stack(differences) <= 1) >= 0.999
    assert np.mean(np.stack(differences)[np.stack(people)] <= 1) >= 0.999
    assert np.mean(people) > 0.05


def test_buffers_are_those_of_numpy(drawn: list[SyntheticSample], expected: list[SyntheticSample]) -> None:
    for ours, theirs in zip(drawn, expected, strict=True):
        assert ours.depth is not None
        assert theirs.depth is not None
        same = np.isfinite(ours.depth) == np.isfinite(theirs.depth)
        assert same.mean() >= 0.999
        both = np.isfinite(ours.depth) & np.isfinite(theirs.depth)
        assert np.quantile(np.abs(ours.depth[both] - theirs.depth[both]), 0.999) < 0.05  # mm
        for name in ("part_id", "person_id"):
            assert (getattr(ours, name) == getattr(theirs, name)).mean() >= 0.999


def test_labels_are_the_same(drawn: list[SyntheticSample], expected: list[SyntheticSample]) -> None:
    for ours, theirs in zip(drawn, expected, strict=True):
        for name in ("intrinsics", "rotation", "translation", "joints3d", "joints2d", "boxes", "pose_class", "stature"):
            assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name
        assert (ours.visibility == theirs.visibility).mean() > 0.99


def test_a_frame_depends_neither_on_its_batch_nor_on_the_process_that_prepared_it(frames: list[PreparedFrame]) -> None:
    together = render_batch(frames, "cpu").images
    for frame, image in zip(frames, together, strict=True):
        sent = pickle.loads(pickle.dumps(frame))  # as from a loader process
        assert torch.equal(render_batch([sent], "cpu").images[0], image)


def test_the_sensor_is_that_of_numpy_without_jpeg() -> None:
    images = np.stack([render_sample(index, size=SIZE, preset=PERFECT["easy"]).image for index in range(5)])
    sensors = [
        Sensor(0.004, None, 1.0, 0.9, 0.0, (0.0, 0.0), None),
        Sensor(None, (0.05, 0.7), 1.2, 1.0, 0.0, (0.0, 0.0), None),
        Sensor(None, None, 0.9, 0.8, 0.2, (0.3, 0.8), None),
        Sensor(0.002, (0.05, 2.0), 1.3, 1.05, 0.1, (0.99, 0.01), None),
    ]
    found = photograph(torch.from_numpy(images), [*sensors, None]).numpy()
    for ours, image, sensor in zip(found, images, sensors, strict=False):
        difference = np.abs(ours.astype(int) - apply_sensor(sensor, image))
        # OpenCV blurs in fixed point; a gamma of 0.9 turns a grey level of a dark pixel into two.
        assert (difference <= 1).mean() > 0.995
        assert difference.max() <= 4
        assert (ours != image).mean() > 0.2
    assert np.array_equal(found[4], images[4])


def test_presets_have_their_sensor() -> None:
    frames = [prepare_frame(index, size=48, preset="easy") for index in range(3)]
    plain = render_batch(frames, "cpu", sensor=False).images
    assert (render_batch(frames, "cpu").images != plain).float().mean() > 0.3
    for frame, image in zip(frames, plain, strict=True):
        assert frame.sensor is not None
        assert frame.intrinsics.shape == (3, 3)
        assert image.float().std() > 5


def test_batches_of_several_sizes_are_refused(frames: list[PreparedFrame]) -> None:
    for wrong in ([], [frames[0], prepare_frame(0, size=48)]):
        with pytest.raises(SyntheticDataError, match="all of one size"):
            render_batch(wrong, "cpu")


def test_requests_are_checked_as_for_numpy() -> None:
    with pytest.raises(SyntheticDataError, match="Unknown split"):
        prepare_frame(0, "nowhere")
    with pytest.raises(SyntheticDataError, match="Unknown preset"):
        prepare_frame(0, preset="nothing")
