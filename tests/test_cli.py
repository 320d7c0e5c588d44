"""The real command line, in-process: fit, test, predict and the rules that keep it honest."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from tests_cli_helpers import log_to, tiny

from posezoo.__main__ import main
from posezoo.cli import _leave_processes
from posezoo.models.base import PoseEstimator
from posezoo.recipes_index import find_recipe, recipe_names

TINY = tiny()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of two steps; `last.ckpt` in it."""
    folder = tmp_path_factory.mktemp("run")
    assert not main(["fit", *TINY, "--trainer.max_steps=2", *log_to(folder, "fit")])
    return folder / "fit"


@pytest.fixture
def checkpoint(trained: Path) -> Path:
    return trained / "checkpoints" / "last.ckpt"


def error_of(capsys: pytest.CaptureFixture[str], args: list[str]) -> str:
    """Run a mistake: exit status 2, one sentence on stderr, no traceback."""
    capsys.readouterr()
    assert main(args) == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith("posezoo: error: ")
    assert "Traceback" not in message
    return message


def test_fit_leaves_a_complete_run_folder(trained: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    assert {"config.yaml", "environment.json", "metrics.csv", "metrics.json", "checkpoints"} <= names
    metrics = json.loads((trained / "metrics.json").read_text())["val"]
    assert metrics["samples"] == 4
    assert metrics["mean_pose"]["mpjpe"] > 0
    assert "SyntheticPeople v1 'easy' val, n=4" in metrics["protocol"]
    assert len(metrics["mpjpe_per_joint"]) == 17
    environment = json.loads((trained / "environment.json").read_text())
    assert environment["packages"]["torch"]


def test_checkpoints_can_be_switched_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["fit", *TINY, "--trainer.max_steps=1", "--trainer.enable_checkpointing=false", *log_to(tmp_path, "none")]
    assert not main(run)
    assert (tmp_path / "none" / "metrics.csv").is_file()
    assert not list(tmp_path.rglob("*.ckpt"))
    said = error_of(capsys, [*run, "--trainer.callbacks=ModelCheckpoint"])
    assert "enable_checkpointing false and the callback ModelCheckpoint contradict each other" in said


def test_the_saved_config_runs_again_to_the_same_first_loss(trained: Path, tmp_path: Path) -> None:
    assert not main(["fit", "-c", str(trained / "config.yaml"), *log_to(tmp_path, "again")])

    def losses(folder: Path) -> list[str]:
        lines = (folder / "metrics.csv").read_text().splitlines()
        column = lines[0].split(",").index("train/loss")
        return [row.split(",")[column] for row in lines[1:] if row.split(",")[column]]

    assert losses(trained) == losses(tmp_path / "again")


def test_a_checkpoint_alone_is_enough_to_test(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not main(["test", f"--ckpt_path={checkpoint}", *log_to(tmp_path, "test")])

    result = json.loads((tmp_path / "test" / "metrics.json").read_text())["test"]
    assert result["samples"] == 6
    assert "mean pose" in capsys.readouterr().out


def test_validate_gives_the_score_that_fit_logged(trained: Path, checkpoint: Path, tmp_path: Path) -> None:
    assert not main(["validate", f"--ckpt_path={checkpoint}", *log_to(tmp_path, "val")])

    fitted = json.loads((trained / "metrics.json").read_text())["val"]["metrics"]
    again = json.loads((tmp_path / "val" / "metrics.json").read_text())["val"]["metrics"]
    assert again["mpjpe"] == pytest.approx(fitted["mpjpe"], abs=1e-4)


def test_a_flag_beats_the_checkpoint(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    test = ["test", f"--ckpt_path={checkpoint}", "--print_config"]
    with pytest.raises(SystemExit):
        main([*test, "--model.ridge=0.01"])
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["model"]["init_args"]["ridge"] == 0.01
    assert config["model"]["init_args"]["backbone"] == "resnet10_w8"


def test_an_override_that_does_not_fit_the_weights_fails_loudly(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wider = ["test", f"--ckpt_path={checkpoint}", "--model.backbone=resnet10_w16", *log_to(tmp_path, "wide")]
    message = error_of(capsys, wider)
    assert "do not fit this MeTRAbs" in message
    assert "size mismatch" in message


def test_predict_writes_json_and_pictures(checkpoint: Path, tmp_path: Path) -> None:
    photo = tmp_path / "grüße.jpg"
    pixels = np.random.default_rng(0).integers(0, 255, (90, 70, 3), np.uint8)
    photo.write_bytes(cv2.imencode(".jpg", pixels)[1].tobytes())

    data = ["--data=ImageFolder", f"--data.root={photo}", "--data.num_workers=0"]
    assert not main(["predict", f"--ckpt_path={checkpoint}", *data, *log_to(tmp_path, "predict")])

    content = json.loads((tmp_path / "predict" / "predictions.json").read_text())
    (person,) = content["people"]
    assert np.shape(person["joints3d"]) == (17, 3)
    assert np.isfinite(person["joints3d"]).all()
    assert person["calibrated"] is False
    pictures = list((tmp_path / "predict" / "pictures").glob("*.png"))
    assert len(pictures) == 1
    assert cv2.imread(str(pictures[0])).shape[0] == 480


@pytest.mark.shared_data
def test_real_images_are_scored_without_pretending(
    checkpoint: Path, tmp_path: Path, shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data=Human36M", f"--data.root={shared / 'data' / 'h36m'}", "--data.num_workers=0"]
    assert not main(["test", f"--ckpt_path={checkpoint}", *data, *log_to(tmp_path, "real")])

    result = json.loads((tmp_path / "real" / "metrics.json").read_text())["test"]
    assert result["samples"] == 3
    assert "n=3, not a benchmark" in result["protocol"]
    assert np.isfinite(list(result["metrics"].values())).all()
    assert "not a benchmark" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("command", ["test", "validate", "predict"])
def test_random_networks_are_not_scored(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--ckpt_path" in error_of(capsys, [command, *TINY])


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["fit", "-c", "metrabs/demo_sintetic"], "metrabs/demo_synthetic"),
        (["fit", *TINY, "--model=MeTRabs"], "MeTRAbs"),
        (["fit", *TINY, "--data=SyntheticPeoples"], "SyntheticPeople"),
        (["fit", *TINY, "--data.skeleton=coco17"], "--model.skeleton"),
        (["fit", *TINY, "--model.bakbone=resnet18"], "bakbone"),
        (["fit", *TINY, "--model.backbone=resnet10_w9"], "resnet10_w"),
        (["fit", *TINY, "--model.skeleton=h36m71"], "h36m17"),
        (["fit", *TINY, "--model.skeleton=coco17"], "pelvis"),
        (["fit", *TINY, "--data.preset=eazy"], "easy"),
        (["fit", *TINY, "--data.batch_size=64"], "batch_size"),
        (["test", "--ckpt_path=nowhere.ckpt"], "nowhere.ckpt"),
        (["fit", *TINY, "--data.cache=true"], "--data.root"),
        (["fot", *TINY], "fit"),
    ],
)
def test_mistakes_get_one_helpful_sentence(
    args: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if args[0] == "fit":
        args = [*args, "--trainer.max_steps=1", "--trainer.logger=false"]
    message = error_of(capsys, args)
    assert expected in message
    assert message.count("\n") == 0


def test_a_recipe_that_sets_what_the_model_owns_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("data:\n  class_path: SyntheticPeople\n  init_args: {image_size: 128}\n")
    assert "--model.image_size" in error_of(capsys, ["fit", "-c", str(recipe), *TINY])


def test_damaged_checkpoints_and_broken_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = tmp_path / "damaged.ckpt"
    damaged.write_bytes(b"not a checkpoint")
    assert "cannot be read" in error_of(capsys, ["test", f"--ckpt_path={damaged}"])
    foreign = tmp_path / "foreign.ckpt"
    torch.save({"state_dict": {}}, foreign)
    assert "not written by a posezoo model" in error_of(capsys, ["test", f"--ckpt_path={foreign}"])
    broken = tmp_path / "broken.yaml"
    broken.write_text("model: [unclosed\n")
    assert "not valid YAML" in error_of(capsys, ["fit", "-c", str(broken)])


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_parses_and_says_what_it_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = find_recipe(name)
    assert re.match(r"# [A-Z].*", path.read_text())
    base = ["-c", "metrabs/demo_synthetic"] if name.startswith("trainer/") else []
    with pytest.raises(SystemExit) as stop:
        main(["fit", *base, "-c", name, "--print_config=skip_default"])
    assert stop.value.code in (0, None)
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["model"]["class_path"].rpartition(".")[2] in PoseEstimator.known_methods()


def test_show_batch_draws_a_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sheet.png"
    options = [o for o in TINY if not o.startswith("--trainer.log_every")]
    assert not main(["show-batch", "--count=3", "--columns=2", f"--out={out}", "--", *options])
    sheet = cv2.imread(str(out))
    assert sheet.shape[0] > 2 * 192
    assert sheet.std() > 10
    assert ".png" in error_of(capsys, ["show-batch", "--count=1", f"--out={tmp_path / 'sheet.docx'}", "--", *options])


def test_a_process_group_does_not_outlive_the_work(tmp_path: Path) -> None:
    """Gloo's threads would now and then abort a process that has done its work (exit status -6 under torchrun)."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    _leave_processes()
    assert not torch.distributed.is_initialized()
    _leave_processes()  # nothing to leave


def test_the_demo_looks_at_the_photograph_before_it_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_text("not a picture")
    assert "broken.jpg is not a readable image" in error_of(
        capsys, ["demo", "--image", str(broken), "--out", str(tmp_path / "demo")]
    )
    assert not (tmp_path / "demo").exists()


def test_infer_names_a_file_that_stands_where_its_folder_should_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken, photo = tmp_path / "taken", tmp_path / "photo.png"
    taken.write_text("mine")
    cv2.imwrite(str(photo), np.zeros((64, 64, 3), np.uint8))
    words = ["infer", str(photo), "--detector", "none", "--device", "cpu", "--out", str(taken)]
    assert "choose another folder" in error_of(capsys, words)
    assert taken.read_text() == "mine"
