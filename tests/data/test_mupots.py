"""MuPoTS-3D: both layouts, what its metric is fed with, and what is missing or damaged."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bad_input_helpers import survive
from scipy.io import loadmat, savemat
from three_dhp_helpers import write_mupots, write_picture

from posezoo.data import MuPoTS3D
from posezoo.data.mupots import open_people
from posezoo.errors import PoseZooError
from posezoo.metrics.multiperson import MuPoTSMetric, People
from posezoo.skeletons import MUPOTS17

MIMIC = Path("data") / "format_mimics" / "mupots_official"


def module(root: Path, **keywords: Any) -> MuPoTS3D:
    return MuPoTS3D(
        str(root), **{"num_workers": 0, "batch_size": 4, "image_size": 64, "skeleton": "mupots17", **keywords}
    )


@pytest.fixture
def table(shared: Path, tmp_path: Path) -> Path:
    """3DMPPE's layout: its table and the images, without annot.mat."""
    shutil.copy(shared / MIMIC / "MuPoTS-3D.json", tmp_path)
    (tmp_path / "MuPoTS-3D.json").chmod(0o644)
    images = tmp_path / "MultiPersonTestSet" / "TS1"
    images.mkdir(parents=True)
    for path in (shared / MIMIC / "MultiPersonTestSet" / "TS1").glob("*.jpg"):
        shutil.copy(path, images)
    return tmp_path


@pytest.mark.shared_data
def test_the_official_mimic_projects_onto_its_labels(shared: Path) -> None:
    """Its poses are those of Shelf, camera 0; the release has no cameras, so they are fitted."""
    people = module(shared / MIMIC).people("test")
    assert len(people) == 6
    for index in range(6):
        sample = people.read(index)
        assert sample.camera is not None
        pixels = sample.camera.project(torch.as_tensor(sample.joints3d)).numpy()
        assert np.linalg.norm(pixels - sample.joints2d, axis=1).max() < 0.05
        assert sample.size == (1032, 776)
    known = [[1063.512085, 0, 511.738251], [0, 1071.863647, 350.088287], [0, 0, 1]]
    np.testing.assert_allclose(people.cameras.intrinsics[0], known, rtol=1e-5)
    assert people.frame.tolist() == [0, 0, 1, 1, 2, 2]
    assert people.person_id.tolist() == [0, 2] * 3  # slots 1 and 3 are not valid
    assert "6 not valid" in people.report()
    with np.load(shared / "data" / "shelf" / "shelf.npz") as data:
        shelf = data["joints_px"][0, :, 0]  # frame 0, camera 0
    names = "r_ankle r_knee r_hip l_hip l_knee l_ankle r_wrist r_elbow r_shoulder l_shoulder l_elbow l_wrist"
    places = [MUPOTS17.index(name) for name in names.split()]
    nearest = min(
        np.abs(people.joints2d[0, places] - person[:12]).max() for person in shelf if np.isfinite(person).all()
    )
    assert nearest < 0.05  # right is right, too


@pytest.mark.shared_data
def test_both_layouts_have_the_same_people(shared: Path, table: Path) -> None:
    official, other = module(shared / MIMIC).people("test"), module(table).people("test")
    for name in ("joints3d", "joints2d", "frame", "sequence", "image_id", "valid3d"):
        np.testing.assert_allclose(getattr(official, name), getattr(other, name), atol=1e-3)
    torch.testing.assert_close(official.cameras.intrinsics, other.cameras.intrinsics, rtol=1e-5, atol=1e-3)
    assert other.universal is None
    assert other.occluded is None
    with pytest.raises(PoseZooError, match=r"has no TS1/annot\.mat .*universal skeleton"):
        module(table).annotated_people("test")


def test_the_metric_is_fed_by_the_dataset(tmp_path: Path) -> None:
    data = module(write_mupots(tmp_path))
    people, truth = data.people("test"), data.annotated_people("test")
    assert truth.universal is not None
    np.testing.assert_allclose(truth.universal * 1.05, truth.joints3d, rtol=1e-5, atol=1e-3)
    assert truth.sequence.tolist() == [0] * 4
    assert data.sequence_names()[0] == "TS1"
    assert truth.frame.tolist() == [0, 0, 1, 1]
    assert truth.index.tolist() == [0, 2, 0, 2]  # slots of the annotation
    # The batches number images alike.
    batches = list(data.test_dataloader())
    for name in ("sequence", "frame"):
        assert torch.cat([batch[name] for batch in batches]).tolist() == getattr(truth, name).tolist()
    metric = MuPoTSMetric()
    found = People(truth.joints2d, truth.universal, truth.sequence, truth.frame, torch.arange(4), score=torch.ones(4))
    metric.update(found, truth)
    scores = metric.compute()
    assert scores["univ_nonrootrel_norescale.pck_all_anno"] == 100
    assert scores["nonuniv_nonrootrel_norescale.mpjpe17"] > 50
    assert scores["recall"] == 1
    assert people.occluded is not None
    assert people.occluded.sum(1).tolist() == [0, 1, 0, 1]
    assert people.occluded[1].argmax() == 4


def test_it_follows_the_published_protocols(tmp_path: Path) -> None:
    data = module(write_mupots(tmp_path), protocol="mupots")
    with pytest.raises(PoseZooError, match=r"mupots"):
        data.setup("test")  # of one sequence only
    whole = tmp_path / "whole"
    for number in range(1, 21):
        write_mupots(whole, f"TS{number}", frames=1)
    full = module(whole, protocol="mupots")
    full.setup("test")
    assert len(full.people("test")) == 40
    assert full.protocol("test").startswith("MuPoTS-3D, TS1 to TS20, 40 annotated people")
    records = full.people("test").records()
    assert sorted(set(records.subject)) == sorted(f"TS{n}" for n in range(1, 21))
    assert full.people("test").sequence.max() == 19


def test_it_is_a_test_set(tmp_path: Path) -> None:
    data = module(write_mupots(tmp_path))
    for split in ("train", "val", "predict"):
        with pytest.raises(PoseZooError, match=r"it is a test set; train on --data MuCo3DHP"):
            data.people(split)
    assert data.protocol("test").startswith("MuPoTS-3D, TS1, 4 annotated people, their own boxes")


def test_joints_of_nan_are_unlabelled(tmp_path: Path) -> None:
    root = write_mupots(tmp_path)
    path = root / "MultiPersonTestSet" / "TS1" / "annot.mat"
    cells = loadmat(path)["annotations"]
    cells[0, 0]["annot3"][0, 0][2, 4] = np.nan
    savemat(path, {"annotations": cells})
    people = module(root).people("test")
    assert people.valid3d.sum(1).tolist() == [16, 17, 17, 17]
    assert np.isfinite(people.joints3d).all()


# ------------------------------------------------------------------------------------------------ mistakes

FOLDER = Path("MultiPersonTestSet") / "TS1"


def _rewrite(change: Callable[[Any], Any], name: str = "annotations") -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        path = root / FOLDER / "annot.mat"
        cells = loadmat(path)["annotations"]
        savemat(path, {name: change(cells)})

    return spoil


def _entries(change: Callable[[Any], None]) -> Callable[[Any], Any]:
    def every(cells: Any) -> Any:
        for place in np.ndindex(*cells.shape):
            change(cells[place])
        return cells

    return every


def _invalid(entry: Any) -> None:
    entry["isValidFrame"][0, 0] = np.zeros((1, 1))


def _fewer(entry: Any) -> None:
    entry["annot3"][0, 0] = entry["annot3"][0, 0][:, :14]


def _mirrored(entry: Any) -> None:
    entry["annot2"][0, 0] = -entry["annot2"][0, 0]


MISTAKES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "nothing": (lambda root: shutil.rmtree(root / FOLDER), "holds neither layout of MuPoTS-3D"),
    "half a download": (
        lambda root: (root / FOLDER / "annot.mat").write_bytes((root / FOLDER / "annot.mat").read_bytes()[:900]),
        r"annot\.mat cannot be read \(.*\): get it from the MuPoTS-3D release again",
    ),
    "other variable": (_rewrite(lambda cells: cells, "labels"), r"annot\.mat holds labels, not 'annotations'"),
    "no cells": (_rewrite(lambda cells: np.ones((2, 3))), "another kind than a cell of frames and people"),
    "nobody": (_rewrite(_entries(_invalid)), "has nobody in a valid frame"),
    "another skeleton": (_rewrite(_entries(_fewer)), r"frame 0, person 0: 'annot3' has the shape \(3, 14\), expected"),
    "no camera fits": (_rewrite(_entries(_mirrored)), "no camera projects the 3D joints onto the 2D joints"),
    "other occlusion": (
        lambda root: savemat(root / FOLDER / "occlusion.mat", {"occlusion_labels": np.full((1, 3), "x", object)}),
        r"occlusion\.mat is not of the annot\.mat beside it",
    ),
    "no images": (lambda root: [path.unlink() for path in (root / FOLDER).glob("*.jpg")], r"No image at .*000000\.jpg"),
    "other size": (
        lambda root: write_picture(root / FOLDER / "img_000001.jpg", np.zeros((9, 9, 3), np.uint8)),
        r"img_000001\.jpg is 9 x 9 px, but its labels",
    ),
}  # fmt: skip


def read_all(root: Path) -> None:
    crops = module(root).crops("test")
    for index in range(len(crops)):
        crops[index]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_spoilt_folder_is_one_clear_sentence(mistake: str, tmp_path: Path) -> None:
    root = write_mupots(tmp_path / "data")
    spoil, sentence = MISTAKES[mistake]
    spoil(root)
    with pytest.raises(PoseZooError, match=sentence) as error:
        read_all(root)
    assert "\n" not in str(error.value)
    assert str(root) in str(error.value)


def test_senseless_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PoseZooError, match=r"--data\.margin must not be negative"):
        MuPoTS3D(margin=-1)
    with pytest.raises(PoseZooError, match="does not know where its files are"):
        MuPoTS3D().people("test")
    with pytest.raises(PoseZooError, match="There is no folder"):
        module(tmp_path / "nowhere").people("test")


@pytest.mark.parametrize("file", ["annot.mat", "occlusion.mat"])
def test_damaged_files_of_the_release(file: str, tmp_path: Path) -> None:
    root = write_mupots(tmp_path)
    assert survive(root / FOLDER / file, 500, lambda: open_people(root)) > 50


@pytest.mark.shared_data
def test_damaged_tables(table: Path) -> None:
    assert survive(table / "MuPoTS-3D.json", 500, lambda: open_people(table)) > 150
