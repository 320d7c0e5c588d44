"""Recipes are found by name, and a wrong name is answered with the nearest ones."""

from pathlib import Path

import pytest

from posezoo import recipes_index
from posezoo.__main__ import main
from posezoo.errors import PoseZooError
from posezoo.recipes_index import find_recipe, recipe_names, recipes_folder, summary


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    recipes = tmp_path / "recipes"
    texts = {
        "metrabs/demo_synthetic": "# Small enough for a laptop.\n# More.\nmodel: 1\n",
        "metrabs/resnet50-256_h36m": "#\n# The paper's model.\nmodel: 2\n",
        "trainer/debug": "trainer: {}\n",
    }
    for name, text in texts.items():
        path = recipes / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(recipes_index, "recipes_folder", lambda: recipes)
    return recipes


def test_names_come_with_the_overlays_last(folder: Path) -> None:
    assert recipe_names() == ["metrabs/demo_synthetic", "metrabs/resnet50-256_h36m", "trainer/debug"]


@pytest.mark.parametrize(
    "name", ["metrabs/demo_synthetic", "metrabs/demo_synthetic.yaml", "metrabs/demo_synthetic.yml"]
)
def test_a_recipe_is_found_by_name(folder: Path, name: str) -> None:
    assert find_recipe(name) == folder / "metrabs" / "demo_synthetic.yaml"


def test_a_yaml_file_of_the_user_is_taken_as_it_is(folder: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("a: 1\n")
    assert find_recipe(str(mine)) == mine


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("metrabs/demo_sintetic", "metrabs/demo_synthetic"),
        ("demo_synthetic", "metrabs/demo_synthetic"),
        ("resnet50-256_h36n", "metrabs/resnet50-256_h36m"),
        ("h36m", "metrabs/resnet50-256_h36m"),
        ("no/such/mine.yaml", "choose from metrabs/demo_synthetic"),
        ("../recipes/metrabs/demo_synthetic", "metrabs/demo_synthetic"),
    ],
)
def test_an_unknown_recipe_names_the_nearest(folder: Path, wrong: str, near: str) -> None:
    with pytest.raises(PoseZooError) as error:
        find_recipe(wrong)
    assert f"'{wrong}'" in str(error.value)
    assert near in str(error.value)
    assert "\n" not in str(error.value)


def test_the_summary_is_the_first_comment_with_words(folder: Path) -> None:
    assert summary(find_recipe("metrabs/demo_synthetic")) == "Small enough for a laptop."
    assert summary(find_recipe("metrabs/resnet50-256_h36m")) == "The paper's model."
    assert summary(find_recipe("trainer/debug")) == ""


def test_the_command_lists_recipes_apart_from_overlays(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    recipes, overlays = capsys.readouterr().out.split("\n\n")
    assert "metrabs/demo_synthetic     Small enough for a laptop." in recipes
    assert "trainer/debug" not in recipes
    assert "trainer/debug" in overlays


def test_the_command_prints_a_recipe_unchanged(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "metrabs/demo_synthetic"]) == 0
    assert capsys.readouterr().out == (folder / "metrabs" / "demo_synthetic.yaml").read_text()


def test_the_command_answers_a_wrong_name_in_one_sentence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "metrabs/demo"]) == 2
    captured = capsys.readouterr()
    assert captured.err == ("posezoo: error: there is no recipe 'metrabs/demo': did you mean metrabs/demo_synthetic?\n")
    assert not captured.out


def test_the_package_wins_over_the_source_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "src" / "posezoo"
    (tmp_path / "recipes").mkdir()
    package.mkdir(parents=True)
    monkeypatch.setattr(recipes_index, "_PACKAGE", package)
    assert recipes_folder() == tmp_path / "recipes"

    (package / "recipes").mkdir()
    assert recipes_folder() == package / "recipes"


def test_an_installation_without_recipes_says_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes_index, "_PACKAGE", tmp_path / "src" / "posezoo")
    with pytest.raises(PoseZooError, match="pip install"):
        recipes_folder()
