"""`posezoo convert metrabs-official`: a folder of the authors' PyTorch release (isarandi/metrabs, metrabs_pytorch).

Such a folder holds `ckpt.pt`, `config.yaml`, `joint_info.npz` and, for many skeletons, `joint_transform_matrix.npy`
(points of the network to joints of all skeletons) and `skeleton_infos.pkl` (which of these a skeleton has).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor

from posezoo.convert.common import card_of, save_converted
from posezoo.data.safe_pickle import read_object_npz, read_pickle
from posezoo.errors import PoseZooError, did_you_mean
from posezoo.models.backbones import read_tensors
from posezoo.models.metrabs import MeTRAbs
from posezoo.skeletons import DERIVED, SKELETONS, Skeleton, get_skeleton
from posezoo.zoo import StoredType

CHECKPOINT, CONFIG, JOINTS = "ckpt.pt", "config.yaml", "joint_info.npz"
TRANSFORM, INFOS = "joint_transform_matrix.npy", "skeleton_infos.pkl"

# The authors' short names; with l or r in front for the limbs.
_LIMBS = {
    "hip": "hip",
    "kne": "knee",
    "ank": "ankle",
    "toe": "toe",
    "hee": "heel",
    "cla": "collar",
    "sho": "shoulder",
    "elb": "elbow",
    "wri": "wrist",
    "han": "hand",
    "eye": "eye",
    "ear": "ear",
}
_TRUNK = {
    "pelv": "pelvis",
    "tors": "spine",
    "spin": "spine",
    "spi1": "spine1",
    "spi2": "spine2",
    "spi3": "spine3",
    "bell": "spine1",
    "neck": "neck",
    "thor": "thorax",
    "nose": "nose",
    "head": "head",
    "htop": "head_top",
}
_PREFERRED = ("smpl24", "h36m17", "mpi_inf_3dhp_17")  # where the user names none


@dataclass
class OfficialFolder:
    """What a released folder says, checked.

    Attributes:
        config: `config.yaml`.
        points: Names of the points that the network predicts.
        transform: [points, joints]: each joint of all skeletons as a combination of the points.
        skeletons: Official skeleton -> (its joints by short name, their columns of `transform`).
        files: What was read.
    """

    config: dict[str, Any]
    points: list[str]
    transform: NDArray[np.float64]
    skeletons: dict[str, tuple[list[str], list[int]]]
    files: list[Path]


def convert_metrabs(
    folder: Path,
    out: Path,
    licence: str,
    skeleton: str | None = None,
    official: str | None = None,
    dtype: StoredType = "float32",
) -> MeTRAbs:
    """Write a released MeTRAbs model as a folder of weights.

    It computes what the authors' code computes for one crop at a time: their striding and decoding (also the 16 px of
    the 256 px model), full perspective with ridge 1e-2, half of each answer inside the window.

    Args:
        folder: The release.
        out: Folder to write.
        licence: The authors' terms, in the user's words.
        skeleton: Skeleton of posezoo that it shall predict; None for the first of SMPL's 24 joints, Human3.6M's 17 and
            MPI-INF-3DHP's 17 that it has.
        official: Skeleton of the release to take the joints from; None for the one that fits.
        dtype: How weights are stored.

    Raises:
        PoseZooError: A file is missing, damaged or of another kind of model; or the skeleton cannot be made.
    """
    released = read_folder(folder)
    body, name, weights = _chosen(released, skeleton, official)
    transform = released.transform[:, released.skeletons[name][1]] @ weights.T
    state = read_tensors(folder / CHECKPOINT)
    estimator = _estimator(released.config, body, None if _order(transform) is not None else len(released.points))
    _load(estimator, state, transform, folder / CHECKPOINT)
    size = _size(released.config)
    card = card_of(
        estimator,
        name=f"metrabs_efficientnetv2{size}.official",
        licence=licence,
        files=released.files,
        data="many datasets; see the authors' repository (isarandi/metrabs)",
        note=f"Converted from the authors' release (isarandi/metrabs, PyTorch), joints of its skeleton {name}; not "
        "trained and not scored by posezoo.",
    )
    save_converted(estimator, out, dtype, card)
    return estimator


# ----------------------------------------------------------------------------------------------------- the folder


def read_folder(folder: Path) -> OfficialFolder:
    """Read what lies beside the checkpoint.

    Raises:
        PoseZooError: A file is missing or damaged, or they contradict each other.
    """
    for name in (CHECKPOINT, CONFIG, JOINTS):
        if not (folder / name).is_file():
            raise PoseZooError(
                f"{folder} has no {name}: give an unpacked folder of the authors' PyTorch release, with {CHECKPOINT}, "
                f"{CONFIG} and {JOINTS}."
            )
    files = [folder / name for name in (CHECKPOINT, CONFIG, JOINTS, TRANSFORM, INFOS) if (folder / name).is_file()]
    points = _names(_read(folder / JOINTS, read_object_npz, "joint_names"), folder / JOINTS)
    transform = _read_transform(folder / TRANSFORM, len(points))
    if (folder / INFOS).is_file():
        skeletons = _read_infos(folder / INFOS, transform.shape[1])
    elif transform.shape[0] == transform.shape[1]:
        skeletons = {"all": (points, list(range(len(points))))}
    else:
        raise PoseZooError(f"{folder} has a {TRANSFORM} but no {INFOS}, which names its joints: fetch both again.")
    return OfficialFolder(_read_config(folder / CONFIG), points, transform, skeletons, files)


def _read_config(file: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PoseZooError(f"{file} is not valid YAML: fetch it again.") from error
    if not isinstance(config, dict) or not isinstance(config.get("proc_side"), int):
        raise PoseZooError(f"{file} does not describe a MeTRAbs model (proc_side is missing): fetch it again.")
    latent = [key for key in ("affine_weights", "transform_coords", "predict_all_and_latents") if config.get(key)]
    if latent:
        raise PoseZooError(f"{file} sets {latent[0]}: networks that predict latent points are not converted.")
    if config.get("mix_3d_inside_fov", 0.5) != 0.5:
        raise PoseZooError(f"{file} has mix_3d_inside_fov {config['mix_3d_inside_fov']}; only 0.5 is converted.")
    return config


def _size(config: Mapping[str, Any]) -> str:
    """s, m or l.

    Raises:
        PoseZooError: It is no EfficientNetV2.
    """
    name = str(config.get("efficientnet_size") or str(config.get("backbone", "")).removeprefix("efficientnetv2-"))
    if name not in ("s", "m", "l"):
        raise PoseZooError(
            f"the backbone '{config.get('backbone') or name}' is not converted: only EfficientNetV2 S, M and L are "
            "released for PyTorch."
        )
    return name


def _read(file: Path, reader: Callable[..., Any], *arguments: str) -> Any:
    """Contents of a pickle or an .npz file, which runs no code.

    Raises:
        PoseZooError: It is damaged, or asks for code.
    """
    try:
        return reader(file, *arguments, "fetch it again, from its authors")
    except PoseZooError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        kind = "pickle" if file.suffix == ".pkl" else f"{file.suffix} file"
        raise PoseZooError(f"{file} is not a readable {kind} ({str(error)[:120]}): fetch it again.") from error


def _names(value: Any, file: Path) -> list[str]:
    value = list(value.tolist()) if isinstance(value, np.ndarray) and value.ndim == 1 else value
    if not isinstance(value, list) or not value or not all(isinstance(name, str | bytes) for name in value):
        raise PoseZooError(f"{file} does not list joint names: fetch it again.")
    return [name.decode() if isinstance(name, bytes) else name for name in value]


def _read_transform(file: Path, points: int) -> NDArray[np.float64]:
    if not file.is_file():
        return np.eye(points)
    try:
        matrix: NDArray[np.float64] = np.load(file, allow_pickle=False).astype(np.float64)
    except (ValueError, EOFError, TypeError) as error:
        raise PoseZooError(f"{file} is not a readable matrix ({error}): fetch it again.") from error
    if matrix.ndim != 2 or matrix.shape[0] != points:
        raise PoseZooError(f"{file} has shape {matrix.shape}, but the model has {points} points: fetch both again.")
    if not np.allclose(matrix.sum(0), 1, atol=1e-3):
        raise PoseZooError(f"{file} does not hold combinations of points (its columns must sum to 1): fetch it again.")
    return matrix


def _read_infos(file: Path, joints: int) -> dict[str, tuple[list[str], list[int]]]:
    content = _read(file, read_pickle)
    found = {}
    for name, info in content.items() if isinstance(content, dict) else ():
        if not isinstance(info, dict) or not isinstance(info.get("indices"), list | np.ndarray):
            continue
        names, indices = _names(info.get("names"), file), [int(i) for i in np.ravel(info["indices"])]
        if len(names) != len(indices) or not all(0 <= i < joints for i in indices):
            raise PoseZooError(f"{file} contradicts itself about {name}: fetch it again.")
        found[str(name)] = (names, indices)
    if not found:
        raise PoseZooError(f"{file} describes no skeletons: fetch it again.")
    return found


# -------------------------------------------------------------------------------------------------------- joints


def canonical(short: str, skeleton: str) -> str:
    """Our name of a joint that the authors call `short` in their `skeleton`."""
    bare = short.partition("_")[0].lower()
    if bare == "head" and skeleton.startswith("h36m"):
        return "nose"  # Human3.6M's joint 14
    if bare in _TRUNK:
        return _TRUNK[bare]
    side, stem = bare[:1], bare[1:]
    return f"{side}_{_LIMBS[stem]}" if side in "lr" and stem in _LIMBS else bare


def _chosen(
    released: OfficialFolder, skeleton: str | None, official: str | None
) -> tuple[Skeleton, str, NDArray[np.float64]]:
    """(our skeleton, the official one it comes from, [our joints, official joints])."""
    if official is not None and official not in released.skeletons:
        hint = did_you_mean(official, released.skeletons)
        raise PoseZooError(f"this release has no skeleton '{official}': {hint}")
    wanted = [get_skeleton(skeleton)] if skeleton else [SKELETONS[name] for name in _PREFERRED]
    for body in wanted:
        # The one of the same name first: smpl_24 for smpl24.
        names = [official] if official else sorted(released.skeletons, key=lambda n: _bare(n) != _bare(body.name))
        for name in names:
            weights = combination(body, [canonical(joint, name) for joint in released.skeletons[name][0]])
            if weights is not None:
                return body, name, weights
    asked = skeleton or " or ".join(_PREFERRED)
    raise PoseZooError(
        f"the skeletons of this release ({', '.join(released.skeletons)}) have not all joints of {asked}: choose "
        "another --skeleton, or the one to take them from with --official-skeleton."
    )


def _bare(name: str) -> str:
    return name.replace("_", "").replace("+", "").lower()


def combination(body: Skeleton, names: Sequence[str]) -> NDArray[np.float64] | None:
    """How the joints of a skeleton are made of others, by name: [joints, others]; None where one cannot be made."""
    weights = np.zeros((len(body), len(names)))
    for row, joint in enumerate(body.joints):
        parts = (joint,) if joint in names else DERIVED.get(joint, ())
        if not parts or not all(part in names for part in parts):
            return None
        weights[row, [names.index(part) for part in parts]] = 1 / len(parts)
    return weights


def _order(transform: NDArray[np.float64]) -> list[int] | None:
    """For each joint its point, where joints are nothing but points in another order."""
    points, joints = transform.shape
    order = transform.argmax(0)
    exact = np.zeros_like(transform)
    exact[order, np.arange(joints)] = 1
    same = points == joints and len(set(order.tolist())) == joints and np.allclose(transform, exact, atol=1e-6)
    return [int(point) for point in order] if same else None


# --------------------------------------------------------------------------------------------------------- weights


def _estimator(config: Mapping[str, Any], body: Skeleton, points: int | None) -> MeTRAbs:
    stride, test = int(config.get("stride_train", 32)), int(config.get("stride_test", 32))
    estimator = MeTRAbs(
        backbone=f"tf_efficientnetv2_{_size(config)}",
        skeleton=body.name,
        image_size=int(config["proc_side"]),
        stride=stride,
        stride_test=None if test == stride else test,
        centered_stride=bool(config.get("centered_stride", False)),
        depth_bins=int(config.get("depth", 8)),
        box_mm=float(config.get("box_size_mm", 2200)),
        perspective="weak" if config.get("weak_perspective") else "full",
        weak_steps=0,
        ridge=1e-2,
        points=points,
        # Their decoder adds half a stride for this switch, whatever the striding was.
        cell_shift=test / 2 if config.get("legacy_centered_stride_bug") else 0.0,
    )
    estimator.eval()
    return estimator


_BLOCKS = {  # which layer a block has -> ours to theirs
    "conv_dw": {
        "conv_pw": "0.0",
        "bn1": "0.1",
        "conv_dw": "1.0",
        "bn2": "1.1",
        "se.conv_reduce": "2.fc1",
        "se.conv_expand": "2.fc2",
        "conv_pwl": "3.0",
        "bn3": "3.1",
    },
    "conv_exp": {"conv_exp": "0.0", "bn1": "0.1", "conv_pwl": "1.0", "bn2": "1.1"},
    "conv": {"conv": "0.0", "bn1": "0.1"},
}


def official_names(ours: Sequence[str]) -> dict[str, str]:
    """Tensors of timm's EfficientNetV2 -> their names in the release (torchvision's)."""
    last = max(int(name.split(".")[1]) for name in ours if name.startswith("blocks.")) + 2
    ends = {"conv_stem": "0.0", "bn1": "0.1", "conv_head": f"{last}.0", "bn2": f"{last}.1"}
    found = {}
    for name in ours:
        layer, _, kind = name.rpartition(".")
        if not name.startswith("blocks."):
            found[name] = f"backbone.1.{ends[layer]}.{kind}"
            continue
        _, stage, block, inner = layer.split(".", 3)
        has = next(key for key in _BLOCKS if f"blocks.{stage}.{block}.{key}.weight" in ours)
        found[name] = f"backbone.1.{int(stage) + 1}.{block}.block.{_BLOCKS[has][inner]}.{kind}"
    return found


def _load(estimator: MeTRAbs, state: Mapping[str, Tensor], transform: NDArray[np.float64], file: Path) -> None:
    """Fill an estimator from the official tensors.

    Raises:
        PoseZooError: Some are missing, superfluous or of another shape.
    """
    body = estimator.network.backbone.body
    wanted = body.state_dict()
    names = official_names(list(wanted))
    heads = {f"heatmap_heads.conv_final.{kind}": getattr(estimator.network.head, kind) for kind in ("weight", "bias")}
    shapes = {theirs: wanted[ours].shape for ours, theirs in names.items()}
    shapes |= {name: tensor.shape for name, tensor in heads.items()}
    needed = [name for name in shapes if not name.endswith("num_batches_tracked")]
    wrong = [name for name in needed if name not in state or state[name].shape != shapes[name]]
    wrong += [name for name in state if name not in shapes]
    if wrong:
        raise PoseZooError(
            f"{file} does not fit its {CONFIG} and {JOINTS}: {len(wrong)} tensors are missing, superfluous or have "
            f"another shape (first: {wrong[0]})."
        )
    body.load_state_dict({ours: state[theirs] for ours, theirs in names.items() if theirs in state}, strict=False)
    order = _order(transform)
    points, bins = len(transform), estimator.network.depth_bins
    chosen = list(range(points)) if order is None else order
    channels = [block * points + point for block in range(1 + bins) for point in chosen]
    with torch.no_grad():
        for name, tensor in heads.items():
            tensor.copy_(state[name][channels])
        if order is None:
            estimator.joint_transform.copy_(torch.from_numpy(transform))
