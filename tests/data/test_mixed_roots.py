"""The folders of a mix's sources, given on the command line: they are in no recipe."""

from pathlib import Path
from typing import Any

import pytest
from bad_input_helpers import write_h36m

from posezoo.__main__ import main
from posezoo.data import MPII, Human36M, Mixed, SearchSplit
from posezoo.errors import PoseZooError

RECIPES = ("hemlets/resnet50-256_h36m+mpii", "partaware/search_h36m+mpii")


def mix(**keywords: Any) -> Mixed:
    return Mixed([Human36M(), MPII(), MPII()], [2, 1, 1], num_workers=0, image_size=32, **keywords)


def test_roots_reach_the_sources_by_class_or_by_place() -> None:
    data = mix(roots={"Human36M": "/a", "1": "/b", "2": "/c"})
    assert [source.root for source in data.sources] == [Path("/a"), Path("/b"), Path("/c")]
    kept = Mixed([Human36M("/own"), MPII("/other")], [1, 1], roots={"MPII": "/new"})
    assert [source.root for source in kept.sources] == [Path("/own"), Path("/new")]


def test_a_split_passes_roots_on_to_its_dataset() -> None:
    assert SearchSplit(Human36M(), roots={"Human36M": "/a"}).sources[0].root == Path("/a")
    inner = Mixed([Human36M(), MPII()], [1, 1], roots={"MPII": "/b"})
    assert [s.root for s in SearchSplit(inner, roots={"Human36M": "/a"}).sources] == [Path("/a"), Path("/b")]


def test_unknown_and_ambiguous_names_are_refused() -> None:
    with pytest.raises(PoseZooError, match=r"--data\.roots has no source 'human36m': did you mean Human36M"):
        mix(roots={"human36m": "/a"})
    with pytest.raises(PoseZooError, match=r"has no source 'MPII': choose from Human36M, 1, 2"):
        mix(roots={"MPII": "/a"})
    with pytest.raises(PoseZooError, match="has no source '3'"):
        mix(roots={"3": "/a"})


def test_a_source_without_files_names_the_option_that_gives_them() -> None:
    with pytest.raises(PoseZooError, match=r"Human36M does not know where its files are: set --data\.roots\.Human36M "):
        mix().open("train")
    with pytest.raises(PoseZooError, match=r"set --data\.roots\.2 to"):
        Mixed([Human36M(), MPII(), MPII()], [1, 1, 1], eval_source=2).open("val")


def test_prepared_data_is_found_in_a_root_given_later(tmp_path: Path) -> None:
    raw, out = write_h36m(tmp_path / "raw", 4), tmp_path / "out"
    settings = ("--image-size", "32", "--workers", "0", "--set", "box_scale=1.0")
    assert main(["prepare", "human36m", "--raw", str(raw), "--root", str(out), *settings]) == 0
    data = Mixed([Human36M(box_scale=1.0)], [2], num_workers=0, image_size=32, roots={"Human36M": str(out)})
    assert "Prepared data" in data.sources[0].people("train").report()
    data.sources[0].set_root(str(raw))
    assert "Prepared data" not in data.sources[0].people("train").report()


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_take_roots_on_the_command_line(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As far as the first file that is missing, which is in the folder that was typed."""
    small = ["--model.backbone_weights=null", "--trainer.accelerator=cpu", "--trainer.precision=32"]
    gone = tmp_path / "gone"
    assert main(["fit", "-c", recipe, f"--data.roots.Human36M={gone}", *small]) == 2
    assert f"There is no folder {gone}: set --data.roots.Human36M" in capsys.readouterr().err
    assert main(["fit", "-c", recipe, f"--data.sources[0].init_args.root={gone}", *small]) == 2
    assert "give folders as --data.roots.DATASET FOLDER" in capsys.readouterr().err


def test_a_mix_trains_from_roots_on_the_command_line(tmp_path: Path) -> None:
    raw = write_h36m(tmp_path / "raw", 6)
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "model: {class_path: posezoo.models.MeTRAbs, init_args: {backbone: resnet10_w8, image_size: 64, stride: 16}}\n"
        "data:\n  class_path: posezoo.data.Mixed\n  init_args:\n"
        "    sources: [{class_path: posezoo.data.Human36M, init_args: {box_scale: 1.0}}]\n"
        "    counts: [2]\n    num_workers: 0\n"
    )
    run = ["--trainer.accelerator=cpu", "--trainer.max_steps=1", "--trainer.enable_progress_bar=false"]
    run += ["--trainer.enable_checkpointing=false", f"--trainer.logger.init_args.save_dir={tmp_path / 'runs'}"]
    assert main(["fit", "-c", str(recipe), "--data.roots.Human36M", str(raw), *run]) == 0
    assert not list((tmp_path / "runs").rglob("*.ckpt"))
