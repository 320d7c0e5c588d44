"""`--weights`: a release instead of a checkpoint, and as the start of another training, also on another skeleton."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests_cli_helpers import error_of, log_to, tiny

import posezoo
from posezoo.__main__ import main
from posezoo.errors import PoseZooError
from posezoo.models import HEMlets, IntegralPose, MeTRAbs, PartAware
from posezoo.models.base import PoseEstimator, read_checkpoint
from posezoo.testing import TINY, synthetic_batch
from posezoo.transfer import transfer
from posezoo.zoo import save_model

TINY_RUN = tiny()
TRAINER = [option for option in TINY_RUN if option.startswith("--trainer")]
DATA = [option for option in TINY_RUN if option.startswith("--data")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`last.ckpt` of two steps."""
    folder = tmp_path_factory.mktemp("run")
    assert not main(["fit", *TINY_RUN, "--trainer.max_steps=2", *log_to(folder, "fit")])
    return folder / "fit" / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="module")
def released(trained: Path) -> Path:
    """The same as a folder of weights."""
    data = read_checkpoint(trained)["posezoo_data"]
    data["init_args"]["num_workers"] = 0
    return save_model(posezoo.load_model(trained), trained.parents[1] / "release", data=data)


def scores(folder: Path) -> Any:
    return json.loads((folder / "metrics.json").read_text())["test"]["metrics"]


def test_weights_are_scored_like_their_checkpoint(trained: Path, released: Path, tmp_path: Path) -> None:
    """Name or path alone is enough: model and data come with it."""
    quiet = [*TRAINER, "--data.num_workers=0"]
    assert not main(["test", f"--ckpt_path={trained}", *quiet, *log_to(tmp_path, "checkpoint")])
    assert not main(["test", f"--weights={released}", *quiet, *log_to(tmp_path, "weights")])
    assert not main(["test", f"--weights={trained}", *quiet, *log_to(tmp_path, "file")])
    assert scores(tmp_path / "checkpoint") == scores(tmp_path / "weights") == scores(tmp_path / "file")
    saved = ["test", "-c", str(tmp_path / "weights" / "test.yaml"), *log_to(tmp_path, "again")]
    assert not main(saved)
    assert scores(tmp_path / "again") == scores(tmp_path / "weights")


def test_a_flag_beats_the_weights(released: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["test", f"--weights={released}", "--model.ridge=0.01", "--print_config"])
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["model"]["init_args"]["ridge"] == 0.01
    assert config["model"]["init_args"]["backbone"] == "resnet10_w8"
    assert config["data"]["init_args"]["preset"] == "easy"
    assert config["weights"] == str(released)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["test"], "add --weights NAME"),
        (["test", "--weights={released}", "--ckpt_path={trained}"], "both say what to load"),
        (["fit", "--weights={released}", "--ckpt_path={trained}"], "--weights starts anew and --ckpt_path goes on"),
        (["test", "--weights={released}", "--model=HEMlets"], "holds a MeTRAbs, not a HEMlets: leave out --model"),
        (["fit", "--weights={released}", "--model=HEMlets"], "holds a MeTRAbs, not a HEMlets: leave out --model"),
        (["test", "--weights={released}", "--model.skeleton=synthetic25"], "trained on the skeleton h36m17"),
        (["test", "--weights={released}", "--model.backbone=resnet10_w16"], "or give other weights than"),
        (["fit", "--weights={released}", "--model.backbone=resnet10_w16"], "holds another network: only 0.0"),
        (["test", "--weights=metrabs_resnet10.synthetic_v9"], "unknown weights 'metrabs_resnet10.synthetic_v9'"),
        (["test", "--weights=no/such/folder"], "there is no file or folder 'no/such/folder'"),
        (["fit", "--weigths={released}"], "--weights"),
    ],
)
def test_mistakes_are_one_sentence(
    args: list[str], expected: str, trained: Path, released: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.format(trained=trained, released=released) for word in args]
    assert expected in error_of(capsys, [*words, *TRAINER, "--trainer.logger=false", "--trainer.max_steps=1"])


def test_fit_starts_from_weights_on_another_skeleton(
    released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = ["fit", f"--weights={released}", "--model.skeleton=hemlets18", *DATA, *TRAINER]
    still = ["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.0", "--trainer.max_steps=1"]
    assert not main([*fit, *still, *log_to(tmp_path, "fit")])
    out = capsys.readouterr().out
    assert f"Starting from {released}" in out
    assert "network.head.weight, network.head.bias, h36m17 to hemlets18 by name: pelvis, r_hip" in out
    assert "new         thorax: as in an untrained model" in out

    before, after = posezoo.load_model(released), posezoo.load_model(tmp_path / "fit" / "checkpoints" / "last.ckpt")
    assert after.skeleton.name == "hemlets18"
    for joint in ("pelvis", "l_wrist"):
        old, new = before.skeleton.index(joint), after.skeleton.index(joint)
        assert torch.equal(after.network.head.weight[new], before.network.head.weight[old])
        # Depth is the slow channel behind the J heatmaps, and J has changed.
        assert torch.equal(after.network.head.weight[18 + 3 * 18 + new], before.network.head.weight[17 + 3 * 17 + old])

    assert "add --weights NAME" in error_of(capsys, ["test", "-c", str(tmp_path / "fit" / "config.yaml")])

    # The saved configuration re-runs, and a checkpoint given beside it goes on with the run.
    config = tmp_path / "fit" / "config.yaml"
    assert yaml.safe_load(config.read_text())["weights"] == str(released)
    more = ["--ckpt_path", str(tmp_path / "fit" / "checkpoints" / "last.ckpt"), "--trainer.max_steps=2"]
    assert not main(["fit", "-c", str(config), *more, *log_to(tmp_path, "more")])
    assert "Starting from" not in capsys.readouterr().out
    assert read_checkpoint(tmp_path / "more" / "checkpoints" / "last.ckpt")["global_step"] == 2


def test_a_recipe_beside_weights_wins_where_it_speaks(
    released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("model:\n  class_path: posezoo.models.MeTRAbs\n  init_args: {weak_steps: 7}\n")
    with pytest.raises(SystemExit):
        main(["fit", "-c", str(recipe), f"--weights={released}", "--print_config"])
    arguments = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
    assert (arguments["weak_steps"], arguments["backbone"], arguments["image_size"]) == (7, "resnet10_w8", 64)


# ------------------------------------------------------------------------------------------------------ by name

SMALL: dict[type[PoseEstimator], dict[str, Any]] = {
    MeTRAbs: {},
    IntegralPose: {"width": 16, "depth_bins": 16},
    HEMlets: {"width": 16, "feature_width": 32, "depth_bins": 16, "parts": [["pelvis", "r_hip"], ["r_hip", "r_knee"]]},
    PartAware: {"widths": [8], "depth_bins": 16, "output_stride": 8},
}


@pytest.mark.parametrize("cls", SMALL, ids=lambda cls: cls.__name__)
def test_joints_keep_their_maps_on_another_skeleton(cls: type[PoseEstimator]) -> None:
    """The same pixels give the same place of a joint, whichever skeleton it is part of; also after a flip."""
    torch.manual_seed(0)
    source = cls(**TINY, **SMALL[cls], skeleton="hemlets18").eval()
    _sharpen(source)
    target = cls(**TINY, **SMALL[cls], skeleton="h36m17").eval()
    found = transfer(source, target, "x")
    assert not [entry for entry in found.fresh if ">" not in entry]  # h36m17 has bones of its own at the neck
    assert not found.left
    batch = synthetic_batch(2)
    with torch.no_grad():
        old, new = source.network(batch["image"]), target.network(batch["image"])
    names = [source.skeleton.index(joint) for joint in target.skeleton.joints]
    if cls is HEMlets:  # the joints share an encoder of all maps: only what the maps themselves say is theirs alone
        assert torch.equal(new.maps[:, :17], old.maps[:, names])
        return
    for field in ("coords", "coords2d", "coords3d", "scores"):
        if hasattr(old, field):
            torch.testing.assert_close(getattr(new, field), getattr(old, field)[:, names])


def _sharpen(model: PoseEstimator) -> None:
    for name, parameter in model.named_parameters():
        if parameter.ndim == 4 and "backbone" not in name:
            torch.nn.init.normal_(parameter, std=(2.0 / parameter[0].numel()) ** 0.5)


@pytest.mark.parametrize("cls", SMALL, ids=lambda cls: cls.__name__)
def test_every_named_channel_exists(cls: type[PoseEstimator]) -> None:
    model = cls(**TINY, **SMALL[cls])
    state = model.state_dict()
    for tensor, (axis, names) in model.channel_names().items():
        assert state[tensor].shape[axis] == len(names), tensor
        assert len(set(names)) == len(names), tensor


def test_same_skeleton_loads_everything_and_measures_bones_anew() -> None:
    arguments: dict[str, Any] = TINY | SMALL[IntegralPose]
    source, target = IntegralPose(**arguments), IntegralPose(**arguments)
    source.count_bones(synthetic_batch(2, "hemlets18")["joints3d"], torch.ones(2, 18, dtype=torch.bool))
    found = transfer(source, target, "x")
    assert not found.remapped
    assert found.parameters[0] == found.parameters[1]
    assert torch.equal(target.bone_lengths, source.bone_lengths)
    assert target.bone_counts.sum() == 0


def test_other_depth_bins_start_anew_and_are_named() -> None:
    source, target = MeTRAbs(**TINY), MeTRAbs(**TINY, depth_bins=4)
    found = transfer(source, target, "x")
    assert found.remapped == ["network.head.weight", "network.head.bias"]
    assert found.fresh[:2] == ["pelvis", "r_hip"]
    assert "new         pelvis" in found.report("x")
    assert torch.equal(target.network.head.weight[:17], source.network.head.weight[:17])  # heatmaps have no depth


def test_fixed_combinations_are_not_carried_over() -> None:
    source, target = MeTRAbs(**TINY, points=30), MeTRAbs(**TINY, points=30, skeleton="hemlets18")
    with pytest.raises(PoseZooError, match="convert the original weights for hemlets18"):
        transfer(source, target, "x")
