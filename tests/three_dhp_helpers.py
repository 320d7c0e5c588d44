"""Tiny recordings in the layouts of MPI-INF-3DHP and MuPoTS-3D, made of drawn people, for tests that spoil them."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.io import savemat

from posezoo.skeletons import MUCO21

SIDE, FOCAL = 64, 80.0
GREEN, SKIN, SHIRT, TROUSERS, CHAIR = (30, 200, 30), (200, 150, 120), (20, 20, 200), (120, 120, 20), (90, 60, 30)
JOINTS_28 = [
    "spine3", "spine4", "spine2", "spine", "pelvis", "neck", "head", "head_top",
    *(f"l_{name}" for name in ("clavicle", "shoulder", "elbow", "wrist", "hand")),
    *(f"r_{name}" for name in ("clavicle", "shoulder", "elbow", "wrist", "hand")),
    *(f"l_{name}" for name in ("hip", "knee", "ankle", "foot", "toe")),
    *(f"r_{name}" for name in ("hip", "knee", "ankle", "foot", "toe")),
]  # fmt: skip
# Joint -> (x, y) in mm, y down, pelvis at the origin; the person's right side is on the left.
_PLACES = {
    "pelvis": (0, 0), "spine": (0, -150), "spine2": (0, -220), "spine3": (0, -300), "spine4": (0, -360),
    "neck": (0, -450), "head": (0, -520), "head_top": (0, -640),
    "r_clavicle": (-60, -420), "r_shoulder": (-150, -420), "r_elbow": (-190, -200), "r_wrist": (-210, 0),
    "r_hand": (-215, 60), "r_hip": (-90, 20), "r_knee": (-100, 380), "r_ankle": (-110, 740),
    "r_foot": (-115, 770), "r_toe": (-120, 790),
}  # fmt: skip


def person(x: float = 0, z: float = 3000.0, turn: float = 0.0) -> NDArray[np.float64]:
    """The 28 joints of an upright person, mm, camera frame."""
    places = dict(_PLACES) | {n.replace("r_", "l_"): (-px, py) for n, (px, py) in _PLACES.items() if n[:2] == "r_"}
    flat = np.array([places[name] for name in JOINTS_28], float)
    return np.stack([flat[:, 0] * np.cos(turn) + x, flat[:, 1], flat[:, 0] * np.sin(turn) + z], 1)


def project(points: NDArray[Any]) -> NDArray[np.float64]:
    return FOCAL * points[..., :2] / points[..., 2:] + SIDE / 2


def calibration(cameras: range = range(14)) -> str:
    lines = ["Skeletool Camera Calibration File V1.0"]
    for camera in cameras:
        lines += [
            f"name          {camera}", "  sensor      10 10", f"  size        {SIDE} {SIDE}", "  animated    0",
            f"  intrinsic   {FOCAL} 0 {SIDE / 2} 0 0 {FOCAL} {SIDE / 2} 0 0 0 1 0 0 0 0 1 ",
            "  extrinsic   1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1 ", "  radial      0",
        ]  # fmt: skip
    return "\n".join(lines) + "\n"


def write_train(
    root: Path,
    subject: str = "S1",
    seq: str = "Seq1",
    cameras: tuple[int, ...] = (0,),
    places: tuple[tuple[float, float], ...] = ((0, 3000), (300, 3200), (-300, 3400)),
    masks: bool = False,
    taller: float = 1.0,
) -> Path:
    """A training sequence: frame i shows a person at places[i] = (x, z); `univ_annot3` is 1/taller of the size."""
    folder = root / subject / seq
    (folder / "imageSequence").mkdir(parents=True)
    poses = np.stack([person(x, z) for x, z in places])
    pelvis = poses[:, [4]]
    cells: dict[str, Any] = {name: np.empty((14, 1), object) for name in ("annot2", "annot3", "univ_annot3")}
    for camera in range(14):
        cells["annot2"][camera, 0] = project(poses).reshape(len(poses), -1)
        cells["annot3"][camera, 0] = poses.reshape(len(poses), -1)
        # Another size at the same place, as the release has it.
        cells["univ_annot3"][camera, 0] = ((poses - pelvis) / taller + pelvis).reshape(len(poses), -1)
    savemat(folder / "annot.mat", cells | {"cameras": np.arange(14, dtype=np.uint8), "frames": np.arange(len(poses))})
    (folder / "camera.calibration").write_text(calibration())
    for camera in cameras:
        for number, pose in enumerate(poses):
            name = f"img_{camera}_{number + 1:06d}.jpg"
            image, foreground, chair = draw(pose)
            write_picture(folder / "imageSequence" / name, image)
            if masks:
                write_picture(folder / "FGmasks" / name, foreground)
                write_picture(folder / "ChairMasks" / name, chair)
    return root


def draw(pose: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """A person as rectangles before green, and the two masks: dark where the frame may be replaced."""
    joints = project(pose)
    at = {name: joints[JOINTS_28.index(name)] for name in JOINTS_28}
    image = np.full((SIDE, SIDE, 3), GREEN, np.uint8)
    foreground = np.zeros((SIDE, SIDE, 3), np.uint8)
    foreground[..., 1:] = 255
    chair = np.full((SIDE, SIDE, 3), 255, np.uint8)
    top, bottom = at["head_top"][1], at["r_toe"][1]
    left, right = at["r_hand"][0], at["l_hand"][0]
    rows = [round(float(v)) for v in (top, at["neck"][1], at["pelvis"][1], bottom)]
    columns = slice(round(float(left)), round(float(right)))
    for colour, first, last in ((SKIN, rows[0], rows[1]), (SHIRT, rows[1], rows[2]), (TROUSERS, rows[2], rows[3])):
        image[first:last, columns] = colour
        foreground[first:last, columns, 0] = 255
    foreground[rows[1] : rows[2], columns, 1] = 0
    foreground[rows[2] : rows[3], columns, 2] = 0
    seat = slice(columns.stop, columns.stop + 5)
    image[rows[2] : rows[3], seat] = CHAIR
    chair[rows[2] : rows[3], seat] = 0
    return image, foreground, chair


def write_picture(path: Path, pixels: NDArray[np.uint8]) -> Path:
    """An RGB or RGBA picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    code = cv2.COLOR_RGBA2BGRA if pixels.shape[2] == 4 else cv2.COLOR_RGB2BGR
    quality = [cv2.IMWRITE_JPEG_QUALITY, 100] if path.suffix == ".jpg" else []
    cv2.imwrite(str(path), cv2.cvtColor(pixels, code), quality)
    return path


def film(sequence: Path) -> None:
    """Put the frames and masks of a training sequence into videos, as the release has them: `video_0.avi`."""
    import av

    cameras: dict[Path, list[Path]] = {}
    for image in sorted(sequence.glob("*/img_*.jpg")):
        cameras.setdefault(image.parent / f"video_{image.name.split('_')[1]}.avi", []).append(image)
    for path, images in cameras.items():
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=25)
            stream.width = stream.height = SIDE
            stream.pix_fmt, stream.bit_rate = "yuv420p", 8_000_000
            for image in images:
                pixels = cv2.cvtColor(cv2.imread(str(image)), cv2.COLOR_BGR2RGB)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
                image.unlink()
            container.mux(stream.encode())


def write_test_set(root: Path, sequence: str = "TS1", frames: int = 3, size: tuple[int, int] = (2048, 2048)) -> Path:
    """A test sequence; the last frame is not valid. Real focal length and size, images of one colour."""
    import h5py

    width, height = size
    folder = root / sequence
    names = [JOINTS_28.index(name) for name in MUCO21.joints[:17]]
    poses = np.stack([person(50 * n) for n in range(frames)])[:, names]
    pixels = 1500.0 * poses[..., :2] / poses[..., 2:] + np.array([width, height]) / 2
    folder.mkdir(parents=True)
    with h5py.File(folder / "annot_data.mat", "w") as file:
        file["annot2"], file["annot3"] = pixels[:, None], poses[:, None]
        pelvis = poses[:, [14]]
        file["univ_annot3"] = ((poses - pelvis) / 1.1 + pelvis)[:, None]
        file["valid_frame"] = np.array([[1.0]] * (frames - 1) + [[0.0]])
        file["activity_annotation"] = np.array([[float(1 + n % 7)] for n in range(frames)])
    for number in range(frames):
        write_picture(folder / f"imageSequence/img_{number + 1:06d}.jpg", np.zeros((height, width, 3), np.uint8))
    return root


def write_mupots(root: Path, sequence: str = "TS1", frames: int = 2) -> Path:
    """A sequence with two people in slots 0 and 2, and nobody in slot 1."""
    folder = root / "MultiPersonTestSet" / sequence
    folder.mkdir(parents=True)
    names = [JOINTS_28.index(name) for name in MUCO21.joints[:17]]
    cells, hidden = np.empty((frames, 3), object), np.empty((frames, 3), object)
    for frame, slot in np.ndindex(frames, 3):
        pose = person(-400 + 400 * slot + 20 * frame, 3000 + 300 * slot)[names]
        there = float(slot != 1)
        cells[frame, slot] = {
            "annot2": project(pose).T * there,
            "annot3": pose.T * there,
            "univ_annot3": pose.T * there / 1.05,
            "isValidFrame": np.uint8(there),
        }
        hidden[frame, slot] = np.eye(17, dtype=np.uint8)[[4]] if slot == 2 else np.zeros((1, 17), np.uint8)
    savemat(folder / "annot.mat", {"annotations": cells})
    savemat(folder / "occlusion.mat", {"occlusion_labels": hidden})
    for frame in range(frames):
        write_picture(folder / f"img_{frame:06d}.jpg", np.full((SIDE, SIDE, 3), 90, np.uint8))
    return root
