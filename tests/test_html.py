"""The interactive page: no network, the right numbers in it, and a real browser draws it."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from inference_helpers import PHOTO, person

from posezoo.cameras import Camera
from posezoo.errors import PoseZooError
from posezoo.people import People, no_people, project_joints
from posezoo.skeletons import H36M17
from posezoo.viz.draw2d import LEFT, RIGHT
from posezoo.viz.html import MOST_FRAMES, page_data, write_html

CAMERA = Camera.create([[130.0, 0, 60], [0, 130, 45], [0, 0, 1]])
CHROMIUM = next((path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if path), None)


def people(count: int = 2, **facts: object) -> People:
    poses = np.stack([person() + np.float32([900 * i - 450, 0, 400 * i]) for i in range(count)])
    shape = poses.shape[:2]
    found = People(
        poses, project_joints(poses, CAMERA), np.full(shape, 0.9, np.float32),
        np.ones((count, 4), np.float32), np.ones(count, np.float32), H36M17, CAMERA, (120, 90),
    )  # fmt: skip
    return replace(found, **facts)  # type: ignore[arg-type]


def test_the_page_needs_no_network_and_survives_any_title(tmp_path: Path) -> None:
    path = write_html(tmp_path / "a.html", [people(image=PHOTO)], "</script><b>Anna & 'Bob'</b>")
    text = path.read_text()
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//|@import|fetch\(|XMLHttpRequest""", text)
    assert text.count("</script>") == 2
    data = json.loads(re.search(r'type="application/json">(.*?)</script>', text, re.S).group(1))  # type: ignore[union-attr]
    assert data["title"].startswith("</script><b>Anna")
    assert data["image"].startswith("data:image/jpeg;base64,")
    assert "__" not in re.sub(r"__proto__", "", text.split("<script id")[0])


def test_numbers_of_the_page() -> None:
    one = people(1)
    one.joints3d[0, 5] = np.nan
    one.joints2d[0, 5] = np.nan
    data = page_data([one], "x")
    row = data["frames"][0]["people"][0]
    assert row["cam"][:3] == [-450, 0, 3000]
    assert row["xyz"][:3] == [-450, 0, 3000], "a level camera's frame is level"
    assert row["xyz"][15:18] == [None, None, None]
    assert data["floor"] == pytest.approx(850, abs=3)  # the ankles
    assert data["colours"][H36M17.index("l_knee")] == list(LEFT)
    assert data["colours"][H36M17.index("r_knee")] == list(RIGHT)
    assert data["bones"] == [list(bone) for bone in H36M17.bones]
    tilted = page_data([replace(people(1), up=(0.0, 0.0, -1.0))], "x")["frames"][0]["people"][0]["xyz"]
    assert tilted[1] == 3000, "gravity points along z here, and down in the page is y"


def test_long_videos_are_thinned_and_empty_ones_drawn() -> None:
    frames = [replace(people(1), frame=n, time=n / 25) for n in range(3)] * 2500
    data = page_data(frames, "x")
    assert len(data["frames"]) <= MOST_FRAMES
    assert "every 2th frame" in data["facts"]
    assert page_data([no_people(H36M17, CAMERA, (120, 90))], "x")["frames"][0]["people"] == []


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(PoseZooError, match=r"must end in \.html"):
        write_html(tmp_path / "a.txt", [people()])
    with pytest.raises(PoseZooError, match="no frame"):
        write_html(tmp_path / "a.html", [])


def screenshot(page: Path, picture: Path) -> np.ndarray:
    """The page as Chromium draws it, RGB."""
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
             "--disable-background-networking", "--disable-component-update", "--disable-sync"]  # fmt: skip
    options = [f"--user-data-dir={picture.parent / 'profile'}", "--window-size=1000,600", "--virtual-time-budget=2000"]
    subprocess.run([str(CHROMIUM), *quiet, *options, f"--screenshot={picture}", page.as_uri()], check=True, timeout=120,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    return cv2.cvtColor(cv2.imread(str(picture)), cv2.COLOR_BGR2RGB)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on this machine")
def test_a_browser_draws_the_people(tmp_path: Path) -> None:
    """Left limbs are blue and right ones orange, in the 3D scene and over the picture."""
    frames = [replace(people(), frame=n, time=n / 25, ids=np.array([1, 2])) for n in range(3)]
    for name, shown in (("photo", [people(image=np.full_like(PHOTO, 128))]), ("video", frames)):
        image = screenshot(write_html(tmp_path / f"{name}.html", shown), tmp_path / f"{name}.png").astype(int)
        scene, photo = image[60:540, 450:], image[60:540, :430]
        for part, where in ((scene, "scene"), (photo, "photo")):
            for colour in (LEFT, RIGHT):
                near = (np.abs(part - colour).max(-1) < 40).sum()
                assert near > 100, f"{name}: no limbs of {colour} in the {where}"
        # They face the camera: their left is at the right of the picture.
        blue, orange = (np.flatnonzero((np.abs(photo - colour).max(-1) < 40).any(0)).mean() for colour in (LEFT, RIGHT))
        assert blue > orange
