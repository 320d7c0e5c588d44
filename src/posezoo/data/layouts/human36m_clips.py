"""Human3.6M in the layouts that keep whole recordings: the official one, 3DMPPE's and VideoPose3D's.

Each reader gives `Clip`s: one recording of one camera. Which subjects and which frames are wanted is decided first, so
that only these are kept in memory.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posezoo.data.files import Tally, read_json
from posezoo.data.layouts.human36m_cameras import SERIALS, SIZES, CameraKey, View, find_cameras, make_camera
from posezoo.data.mat import one_line
from posezoo.data.safe_pickle import read_object_npz
from posezoo.errors import PoseZooError

JOINTS32 = (0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 15, 17, 18, 19, 25, 26, 27)  # H36M17 among the official 32
ACTION_NUMBERS = (  # of 3DMPPE, from 2
    "Directions", "Discussion", "Eating", "Greeting", "Phoning", "Posing", "Purchases", "Sitting", "SittingDown",
    "Smoking", "Photo", "Waiting", "Walking", "WalkDog", "WalkTogether",
)  # fmt: skip
_MOST_VALUES_PER_BYTE = 300  # of a .cdf file: gzip's best is 1032 bytes in one, and a value has four
# The recordings behind 3DMPPE's numbers (subject, action, subaction 1 and 2), from the table in the official
# metadata.xml, where they are not "Action 1" and "Action".
_SCENES = {
    ("S5", "Directions"): ("1", "2"), ("S5", "Discussion"): ("2", "3"), ("S9", "Discussion"): ("1", "2"),
    ("S11", "Discussion"): ("1", "2"), ("S1", "Eating"): ("2", ""), ("S6", "Eating"): ("1", "2"),
    ("S5", "Greeting"): ("1", "2"), ("S11", "Greeting"): ("2", ""), ("S7", "Phoning"): ("2", ""),
    ("S11", "Phoning"): ("3", "2"), ("S6", "Posing"): ("2", ""), ("S1", "Sitting"): ("1", "2"),
    ("S6", "Sitting"): ("1", "2"), ("S1", "SittingDown"): ("2", ""), ("S6", "SittingDown"): ("1", ""),
    ("S5", "SittingDown"): ("", "1"), ("S7", "SittingDown"): ("", "1"), ("S8", "SittingDown"): ("", "1"),
    ("S9", "SittingDown"): ("", "1"), ("S11", "SittingDown"): ("", "1"), ("S11", "Smoking"): ("2", ""),
    ("S5", "Photo"): ("", "2"), ("S6", "Photo"): ("", "1"), ("S7", "Photo"): ("", "1"),
    ("S5", "Waiting"): ("1", "2"), ("S6", "Waiting"): ("3", ""), ("S7", "Waiting"): ("1", "2"),
    ("S7", "Walking"): ("1", "2"), ("S8", "WalkTogether"): ("1", "2"),
}  # fmt: skip


@dataclass
class Clip:
    """One recording of one camera, T frames.

    Attributes:
        subject, scene, serial: "S9", "Posing 1" and the camera's number.
        frame: int32 [T], numbers in the video, counted from 0.
        joints3d: float64 [T, 17, 3] mm, camera frame.
        joints2d: float64 [T, 17, 2] px; None for the projections of these.
        boxes: float64 [T, 4] ltwh, px; None for those around the joints.
        images: Names below the dataset's folder; None where the layout does not say.
    """

    subject: str
    scene: str
    serial: str
    frame: NDArray[np.int32]
    joints3d: NDArray[np.float64]
    joints2d: NDArray[np.float64] | None = None
    boxes: NDArray[np.float64] | None = None
    images: list[str] | None = None


@dataclass
class Clips:
    """What a layout holds of the wanted subjects.

    Attributes:
        clips: Recordings.
        cameras: By subject and serial number.
        source: File that the cameras come from.
        found: In words, for the report.
        tally: What was left out.
    """

    clips: list[Clip]
    cameras: dict[CameraKey, View]
    source: Path
    found: str
    tally: Tally


@dataclass(frozen=True)
class Wanted:
    """Which subjects, and every how many frames (counted from 0)."""

    subjects: tuple[str, ...]
    every: int

    def rows(self, count: int) -> NDArray[np.int32]:
        """Numbers of the wanted frames among so many."""
        return np.arange(0, count, self.every, dtype=np.int32)


# ----------------------------------------------------------------------------------------------- the official files


def is_official(root: Path) -> bool:
    """Whether a folder has S*/MyPoseFeatures."""
    return any(root.glob("S*/MyPoseFeatures"))


def read_official(root: Path, wanted: Wanted) -> Clips:
    """MyPoseFeatures/D3_Positions_mono (or D3_Positions, which is in world coordinates) and D2_Positions.

    Raises:
        PoseZooError: Subjects, cameras or files are missing or damaged; all bad files are named.
    """
    source, cameras = _cameras(root, "metadata.xml of Release-v1.2")
    clips, failed, tally = [], [], Tally()
    for path in _cdf_files(root, wanted, tally):
        try:
            clips += _official_clips(path, wanted, cameras, tally)
        except PoseZooError as error:
            failed.append(str(error).rstrip("."))
        except Exception as error:  # a damaged file raises nearly anything
            failed.append(f"{path} cannot be read ({one_line(error)})")
    if failed:
        more = f", and {len(failed) - 3} others" if len(failed) > 3 else ""
        raise PoseZooError(f"{'; '.join(failed[:3])}{more}: download its archive of Human3.6M again.")
    return Clips(clips, cameras, source, f"the official layout at {root}", tally)


def _cdf_files(root: Path, wanted: Wanted, tally: Tally) -> Iterator[Path]:
    for subject in wanted.subjects:
        features = root / subject / "MyPoseFeatures"
        folder = next((features / n for n in ("D3_Positions_mono", "D3_Positions") if (features / n).is_dir()), None)
        if folder is None:
            tally.leave_out("subjects without MyPoseFeatures/D3_Positions_mono", [subject])
            continue
        paths = sorted(folder.glob("*.cdf"))
        if not paths:
            raise PoseZooError(f"{folder} has no .cdf files: unpack Poses_{folder.name}_{subject}.tgz in {root}.")
        yield from paths


def _official_clips(path: Path, wanted: Wanted, cameras: dict[CameraKey, View], tally: Tally) -> list[Clip]:
    subject = path.parents[2].name
    scene, dot, serial = path.stem.partition(".")
    if scene.startswith("_"):  # _ALL: range of motion, in no benchmark
        return []
    pose = _pose(path, 3)
    if not dot:  # D3_Positions: the same recording for every camera
        clips = []
        for camera in SERIALS:
            if (subject, camera) in cameras:
                in_camera = _to_camera(cameras[subject, camera], pose)
                clips.append(_official_clip(path, subject, scene, camera, in_camera, wanted, tally))
        return clips
    return [_official_clip(path, subject, scene, serial, pose, wanted, tally)]


def _official_clip(
    path: Path, subject: str, scene: str, serial: str, pose: NDArray[np.float64], wanted: Wanted, tally: Tally
) -> Clip:
    flat = path.parents[1] / "D2_Positions" / f"{scene}.{serial}.cdf"
    pixels = None
    if flat.is_file():
        pixels = _pose(flat, 2)
        if len(pixels) != len(pose):
            raise ValueError(f"it has {len(pose)} frames, but {flat.name} in D2_Positions has {len(pixels)}")
    else:
        tally.leave_out("recordings without D2_Positions, whose 2D labels are projections", [f"{subject} {scene}"])
    rows = wanted.rows(len(pose))
    return Clip(subject, scene, serial, rows, pose[rows], None if pixels is None else pixels[rows])


def _pose(path: Path, dimensions: int) -> NDArray[np.float64]:
    """The variable Pose [T, 17, dimensions] of a .cdf file."""
    try:
        import cdflib  # type: ignore[import-untyped, unused-ignore]  # late: only this layout needs it
    except ImportError as error:
        raise PoseZooError(f"Reading {path} needs cdflib: type `pip install cdflib`.") from error
    file = cdflib.CDF(path)
    stated = math.prod(int(size) for size in file.varinq("Pose").Dim_Sizes)
    if not 0 < stated <= _MOST_VALUES_PER_BYTE * path.stat().st_size:
        raise ValueError(f"its Pose states {stated} values")
    values = np.asarray(file.varget("Pose"), np.float64)
    if values.ndim != 3 or values.shape[0] != 1 or values.shape[2] != 32 * dimensions:
        raise ValueError(f"its Pose has the shape {values.shape}, expected (1, T, {32 * dimensions})")
    return values.reshape(-1, 32, dimensions)[:, list(JOINTS32)]


# ----------------------------------------------------------------------------------------------- 3DMPPE


def is_3dmppe(root: Path) -> bool:
    """Whether a folder has annotations/Human36M_subject*_data.json."""
    return any((root / "annotations").glob("Human36M_subject*_data.json"))


def read_3dmppe(root: Path, wanted: Wanted) -> Clips:
    """The JSON tables of mks0601/3DMPPE_POSENET_RELEASE.

    Its cameras have no lens distortion (that is about a pixel). With one of the camera files that have it beside the
    annotations, that is used.

    Raises:
        PoseZooError: Files are missing or damaged.
    """
    folder, tally = root / "annotations", Tally()
    better = find_cameras(root)
    cameras: dict[CameraKey, View] = {} if better is None else better[1]
    clips: list[Clip] = []
    for subject in wanted.subjects:
        paths = {kind: folder / f"Human36M_subject{subject[1:]}_{kind}.json" for kind in ("data", "camera", "joint_3d")}
        missing = [path for path in paths.values() if not path.is_file()]
        if missing:
            if len(missing) < len(paths):
                raise PoseZooError(f"There is no {missing[0]}: unpack all of 3DMPPE's annotations there.")
            tally.leave_out("subjects without annotations", [subject])
            continue
        again = "get it again from 3DMPPE"
        try:
            if better is None:
                cameras |= _3dmppe_cameras(subject, read_json(paths["camera"], again), paths["camera"])
            content = read_json(paths["data"], again)
            clips += _3dmppe_clips(subject, content, read_json(paths["joint_3d"], again), cameras, wanted, tally)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
            raise PoseZooError(f"{paths['data']} is not a table of 3DMPPE ({one_line(error)}): {again}.") from error
    source = folder if better is None else better[0]
    lens = "without lens distortion, about 1 px off" if better is None else f"from {source}"
    return Clips(clips, cameras, source, f"3DMPPE's layout at {root}, cameras {lens}", tally)


def _3dmppe_cameras(subject: str, content: Any, path: Path) -> dict[CameraKey, View]:
    cameras = {}
    for number, serial in enumerate(SERIALS, 1):
        if str(number) in content:
            entry = content[str(number)]
            which = f"{path}: camera {number} of {subject}"
            camera = make_camera(entry, np.reshape(entry["R"], (3, 3)), entry["t"], which, lens=False)
            cameras[subject, serial] = camera, SIZES[serial]
    return cameras


def _3dmppe_clips(
    subject: str, data: Any, joints: Any, cameras: dict[CameraKey, View], wanted: Wanted, tally: Tally
) -> list[Clip]:
    boxes = {row["image_id"]: row["bbox"] for row in data["annotations"]}
    rows: dict[tuple[int, int, int], list[tuple[int, str, Any]]] = {}
    for image in data["images"]:
        if image["frame_idx"] % wanted.every == 0:
            key = int(image["action_idx"]), int(image["subaction_idx"]), int(image["cam_idx"])
            rows.setdefault(key, []).append((int(image["frame_idx"]), str(image["file_name"]), boxes.get(image["id"])))
    clips = []
    for (action, part, camera), found in sorted(rows.items()):
        table = joints.get(str(action), {}).get(str(part), {})
        scene, serial = scene_of(subject, action, part), SERIALS[camera - 1]
        labelled = sorted(row for row in found if str(row[0]) in table and row[2] is not None)
        kept = {frame for frame, _, _ in labelled}
        tally.leave_out("images without joints or box", (name for frame, name, _ in found if frame not in kept))
        if labelled:
            world = np.array([table[str(frame)] for frame, _, _ in labelled], np.float64).reshape(-1, 17, 3)
            clips.append(
                Clip(
                    subject,
                    scene,
                    serial,
                    np.array([frame for frame, _, _ in labelled], np.int32),
                    _to_camera(cameras[subject, serial], world),
                    boxes=np.array([box for _, _, box in labelled], np.float64).reshape(-1, 4),
                    images=[f"images/{name}" for _, name, _ in labelled],
                )
            )
    return clips


def scene_of(subject: str, action: int, part: int) -> str:
    """The recording behind 3DMPPE's numbers of action (2 to 16) and subaction (1 or 2): "SittingDown 1"."""
    if not 2 <= action <= 16 or part not in (1, 2):
        raise ValueError(f"action {action}, subaction {part}")
    name = ACTION_NUMBERS[action - 2]
    number = _SCENES.get((subject, name), ("1", ""))[part - 1]
    return f"{name} {number}".rstrip()


# ----------------------------------------------------------------------------------------------- VideoPose3D


def is_videopose3d(root: Path) -> bool:
    """Whether a folder has data_3d_h36m.npz."""
    return (root / "data_3d_h36m.npz").is_file()


def read_videopose3d(root: Path, wanted: Wanted) -> Clips:
    """facebookresearch/VideoPose3D's data_3d_h36m.npz: joints in world coordinates, metres; the cameras lie elsewhere.

    Raises:
        PoseZooError: The file is damaged or asks for code, or there are no cameras beside it.
    """
    path, again = root / "data_3d_h36m.npz", "make it again with VideoPose3D's prepare_data_h36m.py"
    source, cameras = _cameras(root, "metadata.xml of Release-v1.2")
    clips: list[Clip] = []
    tally = Tally()
    try:
        positions = read_object_npz(path, "positions_3d", again)
        for subject in wanted.subjects:
            if subject not in positions:
                tally.leave_out("subjects without labels", [subject])
                continue
            for scene, joints in sorted(positions[subject].items()):
                clips += _videopose3d_clips(subject, str(scene), joints, cameras, wanted)
    except PoseZooError:
        raise
    except Exception as error:  # a damaged file raises nearly anything
        raise PoseZooError(f"{path} cannot be read ({one_line(error)}): {again}.") from error
    return Clips(clips, cameras, source, f"VideoPose3D's {path}", tally)


def _videopose3d_clips(
    subject: str, scene: str, joints: Any, cameras: dict[CameraKey, View], wanted: Wanted
) -> Iterator[Clip]:
    world = np.asarray(joints, np.float64) * 1000
    if world.ndim != 3 or world.shape[1:] not in ((32, 3), (17, 3)):
        raise ValueError(f"{subject} {scene} has joints of the shape {world.shape}, expected (T, 32, 3)")
    if world.shape[1] == 32:
        world = world[:, list(JOINTS32)]
    rows = wanted.rows(len(world))
    for serial in SERIALS:
        if (subject, serial) in cameras:
            yield Clip(subject, scene, serial, rows, _to_camera(cameras[subject, serial], world[rows]))


# ----------------------------------------------------------------------------------------------- shared


def _cameras(root: Path, file: str) -> tuple[Path, dict[CameraKey, View]]:
    found = find_cameras(root)
    if found is None:
        raise PoseZooError(
            f"{root} has no cameras: put the {file}, karfly's camera-parameters.json, or mmpose's cameras.pkl in it."
        )
    return found


def _to_camera(view: View, world: NDArray[np.float64]) -> NDArray[np.float64]:
    """World to camera, in double precision."""
    camera, _ = view
    turned: NDArray[np.float64] = world @ camera.rotation.double().numpy().T + camera.translation.double().numpy()
    return turned


def image_names(root: Path, clip: Clip) -> list[str]:
    """Names of a clip's images in the first of the customary places that exists; mmpose's where none does."""
    if clip.images is not None:
        return clip.images
    scene, underscored = clip.scene, clip.scene.replace(" ", "_")
    mmpose = f"{clip.subject}_{underscored}.{clip.serial}"
    places = (
        (f"images/{clip.subject}/{mmpose}", f"{mmpose}_{{:06d}}.jpg", 1),
        (f"{clip.subject}/Images/{scene}.{clip.serial}", "frame_{:06d}.jpg", 0),
        (f"{clip.subject}/{scene.replace(' ', '-')}/imageSequence/{clip.serial}", "img_{:06d}.jpg", 1),
    )
    folder, pattern, first = next((place for place in places if (root / place[0]).is_dir()), places[0])
    return [f"{folder}/{pattern.format(frame + first)}" for frame in clip.frame.tolist()]
