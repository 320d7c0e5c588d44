"""Weights: saved and loaded again bit for bit, and every way to get it wrong is one sentence."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from safetensors.torch import save_file
from torch import nn

import posezoo
from posezoo import zoo
from posezoo.errors import PoseZooError
from posezoo.models import MeTRAbs
from posezoo.testing import synthetic_batch
from posezoo.zoo import Weights, catalogue, list_weights, load_model, save_model


class Tiny(LightningModule):
    """Two layers that share one tensor, a buffer, and the hyperparameters that estimators have."""

    def __init__(
        self,
        width: int = 4,
        skeleton: str = "h36m17",
        backbone_weights: str | None = None,
        optimizer: Any = None,
        sizes: list[int] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if backbone_weights is not None:
            raise RuntimeError("loading must not fetch the backbone's weights")
        self.first = nn.Linear(width, width)
        self.tied = nn.Linear(width, width)
        self.tied.weight = self.first.weight
        self.norm = nn.BatchNorm1d(width)


class NotAModel:
    pass


@pytest.fixture
def tiny() -> Tiny:
    torch.manual_seed(0)
    model = Tiny(width=6, sizes=[1, 2])
    model.norm.running_mean.uniform_()
    return model


@pytest.fixture
def folder(tiny: Tiny, tmp_path: Path) -> Path:
    return save_model(tiny, tmp_path / "weights" / "tiny")


def entry(folder: Path, file: str | None = None) -> Weights:
    checksum = hashlib.sha256((folder / "model.json").read_bytes()).hexdigest()
    return Weights("tiny.v1", file or str(folder), checksum, "CC0-1.0", "nothing", "none", {"MPJPE (mm)": 1.0})


def test_weights_come_back_bit_for_bit_in_evaluation_mode(tiny: Tiny, folder: Path) -> None:
    loaded = posezoo.load_model(folder)

    assert type(loaded) is Tiny
    assert not loaded.training
    assert loaded.hparams["width"] == 6
    assert loaded.hparams["sizes"] == [1, 2]
    assert loaded.tied.weight is loaded.first.weight
    expected = tiny.state_dict()
    assert list(loaded.state_dict()) == list(expected)
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_what_only_training_needs_is_not_saved(tmp_path: Path, tiny: Tiny) -> None:
    tiny.hparams["backbone_weights"] = "imagenet"
    tiny.hparams["optimizer"] = {"class_path": "torch.optim.AdamW"}
    tiny.hparams["_class_path"] = "somewhere.Else"

    folder = save_model(tiny, tmp_path / "new")

    document = json.loads((folder / "model.json").read_text())
    assert document["class_path"] == f"{Tiny.__module__}.Tiny"
    assert document["init_args"] == {"width": 6, "skeleton": "h36m17", "sizes": [1, 2]}
    assert load_model(folder).hparams["backbone_weights"] is None


def test_a_folder_written_by_hand_needs_no_checksum(tmp_path: Path) -> None:
    model = Tiny()
    state = {k: v for k, v in model.state_dict().items() if k != "tied.weight"}
    save_file(state, tmp_path / "model.safetensors")
    document = {"class_path": f"{Tiny.__module__}.Tiny", "init_args": {}}
    (tmp_path / "model.json").write_text(json.dumps(document))
    assert torch.equal(load_model(tmp_path).first.weight, model.first.weight)


def test_saving_again_replaces_the_pair_and_keeps_other_files(folder: Path) -> None:
    (folder / "README.md").write_text("card")
    torch.manual_seed(1)
    other = Tiny(width=3)

    save_model(other, folder)

    assert torch.equal(load_model(folder).first.weight, other.first.weight)
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "model.json", "model.safetensors"]
    assert all(p.stat().st_mode & 0o044 for p in folder.iterdir()), "others may read it"


def test_a_write_that_fails_leaves_the_old_pair(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_model(folder).first.weight

    def broken(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("safetensors.torch.save_model", broken)
    with pytest.raises(OSError, match="disk full"):
        save_model(Tiny(width=3), folder)

    assert torch.equal(load_model(folder).first.weight, before)
    assert len(list(folder.iterdir())) == 2


def test_hyperparameters_that_are_not_plain_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    model = Tiny()
    model.hparams["sizes"] = torch.zeros(2)
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_model(model, tmp_path / "new")
    assert not list((tmp_path / "new").glob("*"))


def test_a_pair_that_does_not_belong_together_is_noticed(folder: Path) -> None:
    save_file({"a": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(PoseZooError, match=r"does not belong to its model\.json"):
        load_model(folder)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"class_path": "posezoo.nothing.Here"},
            "need the class posezoo.nothing.Here, which this posezoo lacks",
        ),
        ({"class_path": "Here"}, "which this posezoo lacks"),
        ({"class_path": f"{__name__}.NotAModel"}, "which is not a model"),
        ({"init_args": {"width": 5}}, "does not fit"),
    ],
)
def test_a_configuration_that_does_not_fit_is_one_sentence(folder: Path, change: dict[str, Any], sentence: str) -> None:
    file = folder / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(PoseZooError, match=sentence) as error:
        load_model(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("file", ["model.json", "model.safetensors"])
def test_a_folder_without_one_of_the_two_says_which(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(PoseZooError, match=f"has no {file}"):
        load_model(folder)


def test_a_checkpoint_of_a_run_comes_back_bit_for_bit(tmp_path: Path) -> None:
    model = MeTRAbs(backbone="resnet10_w8", image_size=64, stride=16)
    loaded = load_model(save_checkpoint(model, tmp_path / "last.ckpt"))

    assert isinstance(loaded, MeTRAbs)
    assert not loaded.training
    assert loaded.hparams["stride"] == 16
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def test_a_release_folder_predicts_what_the_model_did(tmp_path: Path) -> None:
    model = MeTRAbs(backbone="resnet10_w8", image_size=64, stride=16).eval()
    batch = synthetic_batch()
    loaded = load_model(save_model(model, tmp_path / "release"))

    assert torch.equal(loaded.predict_step(batch, 0).joints3d, model.predict_step(batch, 0).joints3d)


def save_checkpoint(model: LightningModule, path: Path) -> Path:
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", barebones=False)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(path, weights_only=True)
    return path


def test_a_file_that_is_no_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    text, weights = tmp_path / "text.ckpt", tmp_path / "state.pt"
    text.write_text("hello")
    torch.save({"weight": torch.zeros(1)}, weights)
    for path in (text, weights):
        with pytest.raises(PoseZooError, match=r"cannot be read|not a Lightning checkpoint") as error:
            load_model(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", ["nowhere.ckpt", "no/such/folder", Path("runs") / "x"])
def test_a_missing_file_is_one_sentence(path: str | Path) -> None:
    with pytest.raises(PoseZooError, match=f"no file or folder '{path}'"):
        load_model(path)


def test_an_unknown_name_names_the_nearest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "catalogue", lambda: {"metrabs_r18.synthetic_v1": entry(folder)})
    with pytest.raises(PoseZooError, match=r"unknown weights 'metrabs_r18': did you mean metrabs_r18.synthetic_v1\?"):
        load_model("metrabs_r18")
    monkeypatch.setattr(zoo, "catalogue", dict)
    with pytest.raises(PoseZooError, match="there are none yet"):
        load_model("metrabs_r18")


def test_weights_are_listed_by_pattern(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "catalogue", lambda: dict.fromkeys(("metrabs.b", "hemlets.a", "metrabs.a")))
    assert posezoo.list_weights() == ["hemlets.a", "metrabs.a", "metrabs.b"]
    assert list_weights("metrabs*") == ["metrabs.a", "metrabs.b"]
    assert list_weights("Metrabs*") == []


def test_a_catalogue_name_is_loaded_and_checked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "catalogue", lambda: {"tiny.v1": entry(folder)})
    assert load_model("tiny.v1").hparams["width"] == 6

    known = entry(folder)
    (folder / "model.json").write_text((folder / "model.json").read_text() + "\n")
    monkeypatch.setattr(zoo, "catalogue", lambda: {"tiny.v1": known})
    with pytest.raises(PoseZooError, match="not what the catalogue describes"):
        load_model("tiny.v1")


def test_a_url_is_fetched_once_into_the_cache(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSEZOO_HOME", str(tmp_path / "cache"))
    known = entry(folder, folder.as_uri())
    monkeypatch.setattr(zoo, "catalogue", lambda: {"tiny.v1": known})

    assert load_model("tiny.v1").hparams["width"] == 6
    folder.rename(folder.with_name("gone"))
    assert load_model("tiny.v1").hparams["width"] == 6

    (tmp_path / "cache" / "tiny.v1" / "model.json").unlink()
    with pytest.raises(PoseZooError, match=r"cannot fetch .* on another machine"):
        load_model("tiny.v1")


@pytest.mark.parametrize("name", list(catalogue()))
def test_released_weights_are_complete_and_load(name: str) -> None:
    weights = catalogue()[name]
    for value in (weights.licence, weights.training_data, weights.command):
        assert value
    assert weights.metrics
    if "://" not in weights.file:
        assert not load_model(name).training


def test_the_commented_example_of_the_catalogue_is_an_entry() -> None:
    import tomllib

    lines = (Path(zoo.__file__).parent / "zoo.toml").read_text().splitlines()
    example = "\n".join(line.removeprefix("# ") for line in lines[lines.index("# [[weights]]") :][:8])
    assert Weights(**tomllib.loads(example)["weights"][0]).licence == "Apache-2.0"
