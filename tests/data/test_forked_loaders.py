"""Loader processes forked from a process that has used OpenCV's threads: they must render, not hang."""

import subprocess
import sys

SCRIPT = """
import cv2, numpy as np
from posezoo.data import SyntheticPeople

if __name__ == "__main__":
    cv2.setNumThreads(2)
    cv2.GaussianBlur(np.zeros((1500, 1500, 3), np.uint8), (0, 0), 5)  # starts OpenCV's pool in this process
    assert cv2.getNumThreads() == 2
    data = SyntheticPeople(preset="easy", test_length=4, frame_size=64, image_size=64, num_workers=1, batch_size=2)
    for batch in data.test_dataloader():
        assert batch["image"].float().std() > 1
    print("rendered")
"""


def test_forked_loaders_render_after_opencv_has_used_threads() -> None:
    result = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=False)
    assert result.stdout.strip() == "rendered", result.stderr[-2000:]
