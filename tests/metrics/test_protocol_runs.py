"""`posezoo test --data.protocol NAME` from end to end: known predictions, the protocols' numbers, one rank and two."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import protocol_runs as runs
import pytest
import pytorch_lightning as pl
import torch
from protocol_runs import Reciter, ToyHuman36M, ToyMPII, ToyMuPoTS, predicted
from tests_cli_helpers import log_to

import posezoo.data
from posezoo.__main__ import main
from posezoo.callbacks import PoseMetrics
from posezoo.data import Mixed
from posezoo.data.base import CropDataset
from posezoo.errors import PoseZooError
from posezoo.lifting import hemlets_released
from posezoo.metrics.multiperson import People
from posezoo.metrics.protocols import PROTOCOLS, MultiPerson, SinglePerson, get_protocol
from posezoo.skeletons import MUPOTS17, get_skeleton
from posezoo.structures import Sample

QUIET: dict[str, Any] = {
    "accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint for every skeleton."""
    folder = tmp_path_factory.mktemp("protocols")
    for skeleton in {skeleton for skeleton, _ in runs.RUNS.values()}:
        runs.checkpoint(folder, skeleton)
    return folder


def scores_of(data: Any, skeleton: str, tmp_path: Path) -> dict[str, Any]:
    """Results of `trainer.test` in Python."""
    model = Reciter(skeleton)
    metrics = PoseMetrics(baseline=False, table=False)
    pl.Trainer(**QUIET, callbacks=[metrics], default_root_dir=tmp_path).test(model, data, verbose=False)
    content: dict[str, Any] = json.loads((tmp_path / "metrics.json").read_text())["test"]
    return content


def toy(cls: type, skeleton: str, **keywords: Any) -> Any:
    return cls(num_workers=0, batch_size=16, image_size=64, skeleton=skeleton, **keywords)


# --- numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "frames"),
    [("h36m_p2_pavllo", 1), ("h36m_p1_semgcn", 1), ("h36m_p2_moon", 65), ("h36m_p1_moon", 65), ("h36m_p2_spin", 6)],
)
def test_human36m_scores(name: str, frames: int, tmp_path: Path) -> None:
    """Frames, subjects, cameras and averaging of the protocol, from the arrays themselves."""
    protocol = get_protocol(name)
    assert isinstance(protocol, SinglePerson)
    data = toy(ToyHuman36M, "h36m17", frames=frames, protocol=name)
    found = scores_of(data, "h36m17", tmp_path)

    rows = ToyHuman36M(frames=frames).people("test")
    known = rows.known
    assert known is not None
    kept = [
        index
        for index, (subject, frame, recording, camera) in enumerate(
            zip(known.subject, known.frame, known.recording, known.camera, strict=True)  # type: ignore[arg-type]
        )
        if subject in protocol.subjects and protocol.keeps(int(frame), str(camera), str(recording))
    ]
    pred, truth, identity = predicted(rows)
    expected = protocol.score(pred[kept], truth[kept], action=identity["action"][kept])
    scores = found["protocols"][name]
    assert found["samples"] == len(kept)
    assert scores["metrics"] == pytest.approx(expected.values, abs=1e-2)
    assert scores["definition"] == found["protocol"] == protocol.definition
    for measure, groups in scores["groups"].items():
        assert groups == pytest.approx(
            {data.action_names()[g]: value for g, value in expected.groups[measure].items()}, abs=1e-2
        )
    assert not scores["notes"]


def test_the_mean_pose_is_scored_beside_the_model(tmp_path: Path) -> None:
    """Validation follows the protocol as well; training samples are not selected."""

    class Trained(ToyHuman36M):
        def people(self, split: str) -> runs.Rows:
            return ToyHuman36M(frames=1).people("test") if split == "train" else super().people(split)

    data = toy(Trained, "h36m17", frames=65, protocol="h36m_p2_moon")
    metrics = PoseMetrics()
    trainer = pl.Trainer(**QUIET, callbacks=[metrics], default_root_dir=tmp_path)
    trainer.validate(Reciter("h36m17"), data, verbose=False)
    found = metrics.results["val"]["protocols"]["h36m_p2_moon"]
    assert len(data.crops("train")) == 122  # all recordings, cameras and frames
    # Over all joints and frames the protocol's number is the common one.
    assert found["metrics"]["mpjpe"] == pytest.approx(metrics.results["val"]["metrics"]["mpjpe"], abs=1e-6)
    assert found["mean_pose"]["mpjpe"] == pytest.approx(metrics.results["val"]["mean_pose"]["mpjpe"], abs=1e-6)
    assert found["mean_pose"]["mpjpe"] > found["metrics"]["mpjpe"]
    logged = trainer.callback_metrics["val/h36m_p2_moon/mpjpe"]
    assert float(logged) == pytest.approx(found["metrics"]["mpjpe"], abs=1e-3)


def test_hemlets_released_lifts_pixels_of_the_photograph(tmp_path: Path) -> None:
    found = scores_of(toy(ToyHuman36M, "hemlets18", frames=1, protocol="hemlets_released"), "hemlets18", tmp_path)
    protocol = get_protocol("hemlets_released")
    assert isinstance(protocol, SinglePerson)
    rows = ToyHuman36M(frames=1, subjects=["S9", "S11"]).people("test")
    assert rows.known is not None
    mine = torch.as_tensor(rows.known.subject == "S11")
    pred, truth, identity = predicted(rows)
    pred, truth, action = pred[mine], truth[mine], identity["action"][mine]
    lifted = hemlets_released(runs.pixels_of(pred), pred[..., 2] - pred[:, :1, 2])
    expected = protocol.score(lifted, truth, action=action)
    scores = found["protocols"]["hemlets_released"]
    assert scores["metrics"] == pytest.approx(expected.values, abs=0.05)
    assert "leak" in scores["definition"]
    # The search in steps of 115 mm and constants that are not this person's: other numbers than the standard ones.
    assert abs(found["metrics"]["mpjpe"] - scores["metrics"]["mpjpe"]) > 5


def test_mupots_matches_everybody_of_an_image(tmp_path: Path) -> None:
    data = toy(ToyMuPoTS, "muco21", protocol="mupots")
    found = scores_of(data, "muco21", tmp_path)["protocols"]["mupots"]
    rows = ToyMuPoTS().people("test")
    pred, _, identity = predicted(rows)
    pixels = runs.pixels_of(pred)
    score = torch.sigmoid(torch.arange(len(pred)).float())
    people = People(pixels, pred, identity["sequence"], identity["frame"], torch.arange(len(pred)), score=score)
    protocol = get_protocol("mupots")
    assert isinstance(protocol, MultiPerson)
    expected = protocol.score(people, data.annotated_people("test"))
    assert found["metrics"] == pytest.approx(expected.values, abs=1e-2)
    assert found["metrics"]["recall"] == pytest.approx(59 / 90)
    assert 0 < found["metrics"]["ap_root"] < 100
    assert list(found["groups"]["pck_rel"]) == [f"TS{n}" for n in range(1, 21)]


def test_pckh_in_the_original_image(tmp_path: Path) -> None:
    found = scores_of(toy(ToyMPII, "mpii16", protocol="mpii_pckh"), "mpii16", tmp_path)["protocols"]["mpii_pckh"]
    rows = ToyMPII().people("test")
    pred, truth, _ = predicted(rows)
    pixels, target = runs.pixels_of(pred), runs.pixels_of(truth)
    protocol: Any = get_protocol("mpii_pckh")
    expected = protocol.score(pixels, target, torch.as_tensor(rows.heads).double().nan_to_num(0))
    assert found["metrics"] == pytest.approx(expected.values, abs=1e-4)
    assert 0 < found["metrics"]["pckh@0.5"] < 100


@pytest.mark.shared_data
@pytest.mark.parametrize("case", ["rand", "pck17", "h36m_real"])
def test_golden_poses_through_test(case: str, golden: Any, tmp_path: Path) -> None:
    """The file's poses as labels and predictions of a run: crop cameras, loaders and sums change nothing."""
    stored = golden("metrics")
    skeleton = "mpi_inf_3dhp_17" if case == "pck17" else "h36m17"
    target, pred = (torch.from_numpy(stored[f"{case}.{key}"]).float() for key in ("gt", "pred"))
    if case == "rand":
        assert int(stored["rand.root"]) == 0
    away = torch.tensor([0.0, 0.0, 6000.0]) - target.mean((0, 1))

    class Stored(runs.PoseDataModule):
        def people(self, split: str) -> runs.Rows:
            if split == "train":
                raise PoseZooError("no training split")
            identity = {name: torch.zeros(len(target), dtype=int).numpy() for name in ("sequence", "frame")}
            return runs.Rows(get_skeleton(skeleton), (target + away).numpy(), identity)

    class Recorded(Reciter):
        def estimate(self, batch: runs.Batch) -> runs.Prediction:
            joints = runs.batch_crop(batch).from_source(pred[batch["index"]] + away)
            return replace(super().estimate(batch), joints3d_rel=joints - joints[:, self.root, None], joints3d=joints)

    metrics = PoseMetrics(baseline=False, table=False)
    trainer = pl.Trainer(**QUIET, callbacks=[metrics], default_root_dir=tmp_path)
    trainer.test(Recorded(skeleton), toy(Stored, skeleton, protocol="none"), verbose=False)
    found = metrics.results["test"]["protocols"]["none"]["metrics"]
    keys = {
        "mpjpe": "mpjpe_rootrel",
        "pa_mpjpe": "p_mpjpe_masked_align",
        "pck": "pck150_lt_rootrel",
        "auc": "auc31_0_150_rootrel",
    }
    for name, key in keys.items():
        wanted = [float(value) for k, value in stored.items() if k.startswith(f"{case}.exp.{key}")]
        assert wanted, key
        assert found[name] == pytest.approx(wanted[0], abs=0.02)


@pytest.mark.shared_data
def test_golden_mupots_through_test(golden: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file's predictions as samples, with its false positive, duplicate and missed person."""
    data, columns = golden("mupots"), {}
    for sequence, frames in enumerate(data["n_frames_per_seq"]):
        for frame in range(frames):
            for kind in ("true2d", "true3d", "true3d_univ", "pred2d", "pred3d"):
                value = torch.from_numpy(data[f"seq{sequence}.frame{frame}.{kind}"]).float()
                columns.setdefault(kind, []).append(value)
                ids = torch.tensor([[sequence, frame, row] for row in range(len(value))])
                columns.setdefault(f"{kind}_ids", []).append(ids)
    full = {kind: torch.cat(values) for kind, values in columns.items()}
    annotated = People(full["true2d"], full["true3d"], *full["true2d_ids"].unbind(1), universal=full["true3d_univ"])

    class Stored(runs.PoseDataModule):
        def people(self, split: str) -> runs.Rows:
            if split == "train":
                raise PoseZooError("no training split")
            sequence, frame, person = full["pred2d_ids"].numpy().T
            identity = {"sequence": sequence, "frame": frame, "person_id": person}
            return runs.Rows(MUPOTS17, runs.poses(len(frame), MUPOTS17), identity)

        def annotated_people(self, split: str) -> People:
            return annotated

    class Recorded(Reciter):
        def estimate(self, batch: runs.Batch) -> runs.Prediction:
            crop, index = runs.batch_crop(batch), batch["index"]
            joints, pixels = crop.from_source(full["pred3d"][index]), crop.from_image(full["pred2d"][index])
            return replace(super().estimate(batch), joints3d=joints, joints2d=pixels)

    for name in ("mupots", "mupots_metric"):  # the file has two sequences, not all twenty
        monkeypatch.setitem(PROTOCOLS, name, replace(PROTOCOLS[name], subjects=()))
    for name, keys in (
        ("mupots", {"pck_rel": "univ_rootrel_rescale.pck_all_anno", "auc_rel": "univ_rootrel_rescale.auc_all_anno"}),
        ("mupots_metric", {"mpjpe_abs": "nonuniv_nonrootrel_norescale.mpjpe14"}),
    ):
        metrics = PoseMetrics(baseline=False, table=False)
        trainer = pl.Trainer(**QUIET, callbacks=[metrics], default_root_dir=tmp_path)
        trainer.test(Recorded("mupots17"), toy(Stored, "mupots17", protocol=name), verbose=False)
        found = metrics.results["test"]["protocols"][name]["metrics"]
        assert found["recall"] == pytest.approx(13 / 14)
        for measure, key in keys.items():
            assert found[measure] == pytest.approx(data[f"exp.{key}_perseq_then_mean"][-1], abs=0.02)


# --- the command line --------------------------------------------------------------------------------------------


def test_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two protocols in one go: table, definitions, rows per action, and metrics.json."""
    assert not main([*one_rank(folder, "pavllo"), *log_to(folder, "one-pavllo")])
    result = json.loads((folder / "one-pavllo" / "metrics.json").read_text())["test"]
    assert list(result["protocols"]) == ["h36m_p1_pavllo", "h36m_p2_pavllo"]
    assert result["protocol"].count("; measures: ") == 2
    assert set(result["protocols"]["h36m_p1_pavllo"]["groups"]["mpjpe"]) == set(ToyHuman36M().action_names())
    header = (folder / "one-pavllo" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"test/mpjpe", "test/h36m_p1_pavllo/mpjpe", "test/h36m_p2_pavllo/pa_mpjpe"} <= set(header)
    printed = capsys.readouterr().out
    for name in result["protocols"]:
        assert get_protocol(name).definition in printed.splitlines()
    for text in ("h36m_p2_pavllo", "S11 Directions", "WalkTogether", "recited", "all joints, over frames"):
        assert text in printed


def one_rank(folder: Path, name: str) -> list[str]:
    skeleton, (data, *options) = runs.RUNS[name]
    return runs.words(folder / f"{skeleton}.ckpt", data, *options)


@pytest.fixture(scope="module")
def two_ranks(folder: Path) -> Path:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    script = Path(runs.__file__).with_name("protocol_ranks.py")
    result = subprocess.run(
        [*command, str(script), str(folder)], env=environment, capture_output=True, text=True, timeout=400, check=False
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    return folder


@pytest.mark.parametrize("name", list(runs.RUNS))
def test_two_ranks_give_the_numbers_of_one(name: str, two_ranks: Path) -> None:
    """Odd numbers of samples, grouped averages, gathered people."""
    if not (two_ranks / f"one-{name}" / "metrics.json").is_file():
        assert not main([*one_rank(two_ranks, name), *log_to(two_ranks, f"one-{name}")])
    one, two = (
        json.loads((two_ranks / f"{ranks}-{name}" / "metrics.json").read_text())["test"] for ranks in ("one", "two")
    )
    assert one["samples"] == two["samples"]
    assert one["protocols"].keys() == two["protocols"].keys()
    for protocol, found in one["protocols"].items():
        assert two["protocols"][protocol]["metrics"] == pytest.approx(found["metrics"], abs=1e-4)
        for measure, groups in found["groups"].items():
            assert two["protocols"][protocol]["groups"][measure] == pytest.approx(groups, abs=1e-4)


def test_unknown_protocol(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = runs.words(folder / "h36m17.ckpt", "ToyHuman36M", "--data.protocol=h36m_p2_mon")
    assert main([*command, *log_to(folder, "refused")])
    assert "no protocol 'h36m_p2_mon': did you mean h36m_p2_moon" in " ".join(capsys.readouterr().err.split())


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keywords", "skeleton", "sentence"),
    [
        ({"protocol": "h36m_p1_pavllo", "subjects": ["S9"]}, "h36m17", "subjects S9, S11, but these data have S9"),
        ({"protocol": "mpi_inf_3dhp"}, "mpi_inf_3dhp_17", "on the labels 'univ_annot3' .* are 's9_as_released'"),
        ({"protocol": "3dpw_test14"}, "h36m17", "on the labels 'h36m_regressor'"),
        ({"protocol": "h36m_metrabs", "frames": 65}, "h36m17", "on the labels 's9_corrected' .* 's9_as_released'"),
        ({"protocol": "mupots"}, "muco21", "sequences TS1 .. TS20 .* but these data have S11, S9"),
        ({"protocol": ["h36m_p1_pavllo", "h36m_p2_moon"]}, "h36m17", "other frames, people or labels: score them"),
        (
            {"protocol": "h36m_p2_pavllo", "frames": 11, "step": 5},
            "h36m17",
            r"every frame at 50 fps .* has only \d+ of these \d+: annotate all frames",
        ),
        ({"protocol": "h36m_p1_pavllo"}, "smpl24", "scores spine, nose, head_top, which smpl24 lacks: predict h36m17"),
        ({"protocol": "h36m_p1_pavllo"}, "mpi_inf_3dhp_17", "scores nose, which mpi_inf_3dhp_17 lacks: predict h36m17"),
    ],
)
def test_refused_in_one_sentence(keywords: dict[str, Any], skeleton: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(PoseZooError, match=sentence) as refused:
        scores_of(toy(ToyHuman36M, skeleton, **keywords), skeleton, tmp_path)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "metrics.json").exists()


def test_data_without_names_are_refused(tmp_path: Path) -> None:
    class Nameless(ToyHuman36M):
        def people(self, split: str) -> runs.Rows:
            return replace(super().people(split), known=None)

    with pytest.raises(PoseZooError, match="Nameless does not say whose its 'test' samples are"):
        scores_of(toy(Nameless, "h36m17", protocol="h36m_p1_pavllo"), "h36m17", tmp_path)

    class NoActions(ToyHuman36M):
        def action_names(self) -> tuple[str, ...]:
            return ()

    with pytest.raises(PoseZooError, match="averages over actions, but NoActions does not name any"):
        scores_of(toy(NoActions, "h36m17", protocol="h36m_p1_pavllo"), "h36m17", tmp_path)

    class Alone(ToyMuPoTS):
        def annotated_people(self, split: str) -> People:
            return runs.PoseDataModule.annotated_people(self, split)

    with pytest.raises(PoseZooError, match="Alone does not list everybody in its images"):
        scores_of(toy(Alone, "muco21", protocol="mupots"), "muco21", tmp_path)

    class Headless(ToyMPII):
        def people(self, split: str) -> runs.Rows:
            return replace(super().people(split), heads=None)

    with pytest.raises(PoseZooError, match="needs head sizes, which Headless does not have"):
        scores_of(toy(Headless, "mpii16", protocol="mpii_pckh"), "mpii16", tmp_path)

    class Renumbered(ToyMuPoTS):
        def annotated_people(self, split: str) -> People:
            people = super().annotated_people(split)
            return replace(people, frame=people.frame + 1000)

    with pytest.raises(PoseZooError, match="do not number the images alike"):
        scores_of(toy(Renumbered, "muco21", protocol="mupots"), "muco21", tmp_path)


def test_incomplete_data_are_noted(tmp_path: Path) -> None:
    class Fewer(ToyHuman36M):
        def videos(self) -> list[tuple[str, str, int, str]]:
            return [video for video in super().videos() if video[2] < 3]

    found = scores_of(toy(Fewer, "h36m17", protocol="h36m_p1_pavllo"), "h36m17", tmp_path)
    (note,) = found["protocols"]["h36m_p1_pavllo"]["notes"]
    assert note == "only 3 of 15 actions have samples: not the benchmark"


def test_a_mix_follows_the_protocol_of_its_scored_source(tmp_path: Path) -> None:
    source = toy(ToyHuman36M, "h36m17", frames=65, protocol="h36m_p2_moon")
    mix = Mixed([ToyHuman36M(), source], [1, 0], eval_source=1, num_workers=0, image_size=64)
    found = scores_of(mix, "h36m17", tmp_path)
    assert list(found["protocols"]) == ["h36m_p2_moon"]
    assert found["samples"] == 2 * 16 * 2 * 2  # two subjects, 16 recordings, two cameras, frames 0 and 64


# --- our readers -------------------------------------------------------------------------------------------------


class Perfect(Reciter):
    """Predicts the labels."""

    def estimate(self, batch: runs.Batch) -> runs.Prediction:
        found, joints = super().estimate(batch), batch["joints3d"]
        relative = joints - joints[:, self.root, None]
        return replace(found, joints3d=joints, joints3d_rel=relative, joints2d=batch["joints2d"])


def black(self: CropDataset, index: int, draw: int = 0) -> Sample:
    """Labels without their images: not all mimics have these."""
    sample = self.people.read_labels(index)
    width, height = sample.size
    return replace(sample, image=np.zeros((height, width, 3), np.uint8))


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("dataset", "folder", "name", "skeleton", "there"),
    [
        ("MuPoTS3D", "mupots_official", "mupots", "mupots17", ("TS1",)),
        ("MPIINF3DHP", "mpi_inf_3dhp_official", "mpi_inf_3dhp", "mpi_inf_3dhp_17", ("TS1",)),
        ("ThreeDPW", "3dpw_official", "3dpw", "smpl24", ("test",)),
        ("MPII", "../mpii", "mpii_pckh", "mpii16", ("val",)),
        ("Human36M", "../h36m", "h36m_p1_spin", "h36m17", ("S1", "S5", "S8")),
    ],
)
def test_labels_of_our_readers_score_best(
    dataset: str,
    folder: str,
    name: str,
    skeleton: str,
    there: tuple[str, ...],
    shared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Real samples and mimics of the official layouts, which have some of the subjects: first refused, then scored."""
    root = tmp_path / "data"
    root.mkdir()
    for entry in (shared / "data" / "format_mimics" / folder).iterdir():
        (root / entry.name).symlink_to(entry)
    (root / "images").mkdir(exist_ok=True)
    cls = getattr(posezoo.data, dataset)
    monkeypatch.setattr(CropDataset, "read_checked", black)

    def run() -> dict[str, float]:
        metrics = PoseMetrics(baseline=False, table=False)
        trainer = pl.Trainer(**QUIET, callbacks=[metrics], default_root_dir=tmp_path)
        trainer.test(Perfect(skeleton), toy(cls, skeleton, root=str(root), protocol=name), verbose=False)
        found: dict[str, float] = metrics.results["test"]["protocols"][name]["metrics"]
        return found

    if dataset not in ("ThreeDPW", "MPII"):  # these look for the files of the official split
        with pytest.raises(PoseZooError, match=f"Protocol {name} is defined on"):
            run()
    monkeypatch.setitem(PROTOCOLS, name, replace(PROTOCOLS[name], subjects=there, frame_step=1, complete=False))
    best = {"mpjpe": 0, "pa_mpjpe": 0, "pck": 100, "auc": 100 * 30 / 31, "pck_rel": 100, "recall": 1}
    best |= {"pckh@0.5": 100, "pckh@0.1": 100, "auc_rel": 100 * 30 / 31, "pck50": 100}
    best |= {"auc": 1} if dataset == "ThreeDPW" else {}
    found = run()
    assert found.keys() & best.keys()
    for measure in found.keys() & best.keys():
        assert found[measure] == pytest.approx(best[measure], abs=0.05), measure
