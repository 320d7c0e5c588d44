"""The authors' checkpoints through `posezoo convert`: the same numbers as their code, and nothing in a file is run."""

import importlib.util
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tests_cli_helpers import error_of
from torch import Tensor

import posezoo
from posezoo.__main__ import main
from posezoo.convert.metrabs import canonical, combination, read_folder
from posezoo.errors import PoseZooError
from posezoo.models.metrabs import MeTRAbs
from posezoo.skeletons import H36M17, HEMLETS18, MPI_INF_3DHP_17, SMPL24, get_skeleton
from posezoo.structures import Batch
from posezoo.testing import synthetic_batch


def words(text: str) -> list[str]:
    return text.split()


SMPL = words(
    "pelv lhip rhip spi1 lkne rkne spi2 lank rank spi3 ltoe rtoe neck lcla rcla head "
    "lsho rsho lelb relb lwri rwri lhan rhan"
)
TERMS = "research only, by the authors' README"


def official_input() -> Tensor:
    return torch.from_numpy(np.random.default_rng(7).random((2, 3, 256, 256), dtype=np.float32))


def stand_in(shared: Path, table: str) -> dict[str, Tensor]:
    path = shared / "golden" / "official" / "state_dict_from_table.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.make(json.loads((path.parent / table).read_text()))  # type: ignore[no-any-return]


def crop(image: Tensor, intrinsics: Tensor, skeleton: str) -> Batch:
    batch = synthetic_batch(len(image), skeleton, image.shape[-1], labels="none")
    batch["image"], batch["intrinsics"] = image, intrinsics
    return batch


# ------------------------------------------------------------------------------------------------------- MeTRAbs


def write_official(
    folder: Path, state: dict[str, Tensor] | None, config: dict[str, Any] | None = None, **files: Any
) -> Path:
    """A folder as the authors release it; the 24 points are SMPL's joints."""
    folder.mkdir(parents=True, exist_ok=True)
    if state is not None:
        torch.save(state, folder / "ckpt.pt")
    content = {
        "proc_side": 256,
        "stride_train": 32,
        "stride_test": 32,
        "centered_stride": True,
        "backbone": "efficientnetv2-s",
        "depth": 8,
        "box_size_mm": 2200,
        "weak_perspective": False,
        "mix_3d_inside_fov": 0.5,
        "affine_weights": None,
        "transform_coords": False,
        "predict_all_and_latents": False,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(content | (config or {})))
    np.savez(folder / "joint_info.npz", joint_names=np.array(files.get("points", SMPL)), joint_edges=np.zeros((2, 2)))
    if "transform" in files:
        np.save(folder / "joint_transform_matrix.npy", files["transform"])
    infos = files.get("infos", {"smpl_24": {"indices": np.arange(24), "names": SMPL, "edges": [[0, 1]]}})
    (folder / "skeleton_infos.pkl").write_bytes(pickle.dumps(infos))
    return folder


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], dict[str, Tensor]]:
    made: dict[str, dict[str, Tensor]] = {}

    def get(shared: Path) -> dict[str, Tensor]:
        if not made:
            made["state"] = stand_in(shared, "metrabs_effv2s_j24.json")
        return made["state"]

    return get


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("variant", "config"),
    [
        ("centered", {}),
        ("legacy256", {"centered_stride": False, "legacy_centered_stride_bug": True, "efficientnet_size": "s"}),
    ],
)
def test_a_metrabs_release_gives_the_authors_poses(
    variant: str, config: dict[str, Any], shared: Path, released: Any, golden: Any, tmp_path: Path
) -> None:
    folder = write_official(tmp_path / "official", released(shared), config)
    out = tmp_path / "weights"
    assert main(["convert", "metrabs-official", str(folder), f"--licence={TERMS}", f"--out={out}"]) == 0

    model = posezoo.load_model(out)
    data = golden("official/metrabs_effv2s_j24")
    batch = crop(official_input(), torch.from_numpy(data["intrinsics"]), "smpl24")
    with torch.no_grad():
        heads = model.network(batch["image"])
        features = model.network.backbone(batch["image"])
        found = model.estimate(batch)
    sample = torch.from_numpy(data[f"{variant}.features_sample"])
    torch.testing.assert_close(features[:, ::40], sample, atol=1e-4 * float(sample.std()), rtol=1e-4)
    expected = {key: torch.from_numpy(data[f"{variant}.{key}"]) for key in ("coords2d", "coords3d")}
    torch.testing.assert_close(heads.coords2d, expected["coords2d"], atol=0.01, rtol=0)
    torch.testing.assert_close(heads.coords3d, expected["coords3d"], atol=0.1, rtol=0)
    absolute = torch.from_numpy(data[f"{variant}.absolute_one_by_one"])
    torch.testing.assert_close(found.joints3d, absolute, atol=1.0, rtol=0)

    document = json.loads((out / "model.json").read_text())
    assert document["card"]["licence"] == TERMS
    assert set(document["card"]["converted_from"]) == {"ckpt.pt", "config.yaml", "joint_info.npz", "skeleton_infos.pkl"}
    assert TERMS in (out / "README.md").read_text()
    assert "not scored by posezoo" in (out / "README.md").read_text()


@pytest.mark.shared_data
def test_joints_of_a_release_are_combinations_of_its_points(
    shared: Path, released: Any, golden: Any, tmp_path: Path
) -> None:
    """30 joints from 24 points; Human3.6M's 17 are some of them, in an order of their own."""
    rng = np.random.default_rng(0)
    transform = rng.dirichlet(np.ones(24), 30).T
    names = words("pelv rhip rkne rank lhip lkne lank spin neck head htop lsho lelb lwri rsho relb rwri")
    columns = rng.permutation(30)[:17]
    infos = {"h36m_17": {"indices": columns.tolist(), "names": names, "edges": []}}
    folder = write_official(tmp_path / "official", released(shared), transform=transform, infos=infos)
    out = tmp_path / "weights"
    assert main(["convert", "metrabs-official", str(folder), f"--licence={TERMS}", f"--out={out}"]) == 0

    model = posezoo.load_model(out)
    assert model.skeleton is H36M17
    data = golden("official/metrabs_effv2s_j24")
    batch = crop(official_input(), torch.from_numpy(data["intrinsics"]), "h36m17")
    with torch.no_grad():
        found = model.estimate(batch)
    points = torch.from_numpy(data["centered.absolute_one_by_one"])
    expected = torch.einsum("bpc,pj->bjc", points, torch.from_numpy(transform[:, columns]).float())
    torch.testing.assert_close(found.joints3d, expected, atol=1.0, rtol=0)
    rays = found.joints3d / found.joints3d[..., 2:]
    torch.testing.assert_close(found.joints2d, (rays @ batch["intrinsics"].mT)[..., :2], atol=0.01, rtol=0)
    assert found.scores.shape == (2, 17)
    assert ((found.scores > 0) & (found.scores <= 1)).all()


def test_points_in_another_order_become_an_ordinary_head() -> None:
    """No fixed combination is left, so the head can be fine-tuned by joint name."""
    from posezoo.convert.metrabs import _order

    order = np.random.default_rng(1).permutation(24)
    matrix = np.zeros((24, 24))
    matrix[order, np.arange(24)] = 1
    assert _order(matrix) == order.tolist()
    assert _order(matrix[:, :23]) is None  # one point is no joint: it still takes part in the reconstruction
    assert _order(matrix * 0.5 + 0.5 / 24) is None


@pytest.mark.parametrize("kind", [object, None])
def test_a_release_is_read_as_data(kind: Any, tmp_path: Path) -> None:
    """Names as NumPy wrote them, plain or as objects; indices as arrays or lists."""
    infos = {"smpl_24": {"indices": list(range(24)), "names": np.array(SMPL, dtype=kind), "edges": np.zeros((3, 2))}}
    folder = write_official(tmp_path / "official", {"a": torch.zeros(1)}, infos=infos)
    np.savez(folder / "joint_info.npz", joint_names=np.array(SMPL, dtype=kind), joint_edges=np.zeros((2, 2)))
    found = read_folder(folder)
    assert found.points == SMPL
    assert found.skeletons == {"smpl_24": (SMPL, list(range(24)))}
    assert np.array_equal(found.transform, np.eye(24))


def test_names_of_joints() -> None:
    assert [canonical(name, "smpl_24") for name in SMPL] == list(SMPL24.joints)
    assert canonical("head", "h36m_17") == "nose"
    assert canonical("htop_h36m", "h36m_25") == "head_top"
    assert canonical("head", "mpi_inf_3dhp_17") == "head"
    assert canonical("something", "x") == "something"
    short = words("htop neck rsho relb rwri lsho lelb lwri rhip rkne rank lhip lkne lank pelv spin head")
    assert tuple(canonical(name, "mpi_inf_3dhp_17") for name in short) == MPI_INF_3DHP_17.joints


def test_a_derived_joint_is_the_mean_of_its_parts() -> None:
    weights = combination(HEMLETS18, list(H36M17.joints))
    assert weights is not None
    row = weights[HEMLETS18.index("thorax")]
    assert row[H36M17.index("l_shoulder")] == row[H36M17.index("r_shoulder")] == 0.5
    assert combination(SMPL24, list(H36M17.joints)) is None


def _drop(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


SPOILT: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no checkpoint": (_drop("ckpt.pt"), "has no ckpt.pt"),
    "no joints": (_drop("joint_info.npz"), "has no joint_info.npz"),
    "half a checkpoint": (lambda f: (f / "ckpt.pt").write_bytes((f / "ckpt.pt").read_bytes()[:900]), "cannot be read"),
    "broken config": (lambda f: (f / "config.yaml").write_text("a: [\n"), "config.yaml is not valid YAML"),
    "other config": (lambda f: (f / "config.yaml").write_text("a: 1\n"), "does not describe a MeTRAbs model"),
    "latent points": (lambda f: write_official(f, None, {"transform_coords": True}), "sets transform_coords"),
    "another backbone": (lambda f: write_official(f, None, {"backbone": "resnet50"}), "'resnet50' is not converted"),
    "other weights": (lambda f: torch.save({"a": torch.zeros(1)}, f / "ckpt.pt"), "does not fit its config.yaml"),
    "broken names": (lambda f: (f / "joint_info.npz").write_bytes(b"PK"), "joint_info.npz is not a readable"),
    "broken skeletons": (lambda f: (f / "skeleton_infos.pkl").write_bytes(b"\x80\x04]"), "not a readable pickle"),
    "no skeletons": (lambda f: (f / "skeleton_infos.pkl").write_bytes(pickle.dumps([1])), "describes no skeletons"),
    "a matrix of another model": (
        lambda f: np.save(f / "joint_transform_matrix.npy", np.eye(23)),
        "has shape (23, 23), but the model has 24 points",
    ),
    "no combinations": (lambda f: np.save(f / "joint_transform_matrix.npy", np.zeros((24, 24))), "must sum to 1"),
    "joints beyond the matrix": (
        lambda f: write_official(f, None, infos={"smpl_24": {"indices": [99], "names": ["pelv"]}}),
        "contradicts itself about smpl_24",
    ),
    "too few joints": (
        lambda f: write_official(f, None, infos={"mine": {"indices": [0], "names": ["pelv"]}}),
        "have not all joints of smpl24 or h36m17",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_damaged_release_is_one_sentence(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_official(tmp_path / "official", {f"layer{i}.weight": torch.zeros(4) for i in range(20)})
    spoil, sentence = SPOILT[case]
    spoil(folder)
    out = tmp_path / "out"
    message = error_of(capsys, ["convert", "metrabs-official", str(folder), "--licence=x", f"--out={out}"])
    assert sentence in message
    assert not out.exists()


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["metrabs-oficial", "{folder}", "--licence=x", "--out=o"], "did you mean metrabs-official"),
        (["metrabs-official", "{folder}", "--out=o"], "name them with --licence TEXT"),
        (["metrabs-official", "{folder}", "--licence= ", "--out=o"], "name them with --licence TEXT"),
        (["metrabs-official", "{folder}", "--licence=x"], "Add --out FOLDER"),
        (["metrabs-official", "nowhere", "--licence=x", "--out=o"], "there is nothing at nowhere"),
        (["metrabs-official", "{folder}", "--licence=x", "--out=o", "--skeleton=smpl42"], "Did you mean 'smpl24'"),
        (
            ["metrabs-official", "{folder}", "--licence=x", "--out=o", "--official-skeleton=smpl"],
            "did you mean smpl_24",
        ),
        (["hemlets-official", "{folder}", "--licence=x", "--out=o"], "there is no file at"),
        (["hemlets-official", "{folder}/ckpt.pt", "--licence=x", "--out=o"], "not weights of the HEMlets release"),
    ],
)
def test_mistakes_on_the_command_line(
    args: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write_official(tmp_path / "official", {"layer.weight": torch.zeros(4)})
    assert expected in error_of(capsys, ["convert", *(word.format(folder=folder) for word in args)])
    assert not (tmp_path / "o").exists()


# ------------------------------------------------------------------------------------------------------- HEMlets


@pytest.mark.shared_data
def test_the_hemlets_release_gives_the_authors_joints(shared: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "hemlets_h36m.pth", tmp_path / "weights"
    state = stand_in(shared, "hemlets_r50.json")
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, file)
    assert main(["convert", "hemlets-official", str(file), f"--licence={TERMS}", f"--out={out}"]) == 0
    file.unlink()

    model = posezoo.load_model(out)
    assert model.hparams["convention"] == "official"
    assert model.skeleton is HEMLETS18
    with torch.no_grad():
        coords = model.network(official_input()[:1]).coords
    with np.load(shared / "golden" / "official" / "hemlets_r50.npz") as expected:
        assert (coords - torch.from_numpy(expected["joints"][:1])).abs().max() < 2e-6
    assert json.loads((out / "model.json").read_text())["card"]["licence"] == TERMS


# ----------------------------------------------------------------------------------------------- nothing is run


class Evil:
    """Unpickled carelessly, it writes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.target}'",)


def test_a_malicious_release_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    canary = tmp_path / "executed"
    folder = write_official(tmp_path / "official", {"a": torch.zeros(1)})
    (folder / "skeleton_infos.pkl").write_bytes(pickle.dumps({"smpl_24": Evil(canary)}))
    error_of(capsys, ["convert", "metrabs-official", str(folder), "--licence=x", f"--out={tmp_path / 'o'}"])
    write_official(folder, None)
    np.savez(folder / "joint_info.npz", joint_names=np.array([Evil(canary)], dtype=object), joint_edges=[[0, 1]])
    error_of(capsys, ["convert", "metrabs-official", str(folder), "--licence=x", f"--out={tmp_path / 'o'}"])
    write_official(folder, None)
    for kind, path in (("metrabs-official", folder), ("hemlets-official", folder / "ckpt.pt")):
        (folder / "ckpt.pt").write_bytes(pickle.dumps({"a": Evil(canary)}))
        error_of(capsys, ["convert", kind, str(path), "--licence=x", f"--out={tmp_path / 'o'}"])
        torch.save({"a": Evil(canary)}, folder / "ckpt.pt")
        error_of(capsys, ["convert", kind, str(path), "--licence=x", f"--out={tmp_path / 'o'}"])
    assert not canary.exists()


def test_points_need_the_modern_profile() -> None:
    arguments: dict[str, Any] = {"backbone": "resnet10_w8", "image_size": 64, "stride": 16, "points": 30}
    with pytest.raises(PoseZooError, match=r"leave out --model.points"):
        MeTRAbs(profile="paper", **arguments)
    model = MeTRAbs(**arguments).train()
    batch = synthetic_batch()
    sum(model.losses(model.estimate(batch), batch).values()).backward()
    assert model.network.head.weight.grad is not None
    assert get_skeleton("h36m17") is model.skeleton
