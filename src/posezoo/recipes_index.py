"""Finding recipes by name: inside an installed wheel, or at the top of a source checkout.

A recipe is a complete, short YAML; `ablations/*` and `trainer/*` are overlays, given as a second `-c` after a recipe.
"""

from pathlib import Path

from posezoo.errors import PoseZooError, did_you_mean

OVERLAYS = ("ablations/", "trainer/")
_PACKAGE = Path(__file__).resolve().parent
_SUFFIXES = (".yaml", ".yml")


def recipes_folder() -> Path:
    """Folder of the shipped recipes: in the package, else in the source checkout."""
    for folder in (_PACKAGE / "recipes", _PACKAGE.parents[1] / "recipes"):
        if folder.is_dir():
            return folder
    raise PoseZooError(
        "this installation has no recipes: type `pip install --force-reinstall --no-deps posezoo`, "
        "or give `-c` the path of a YAML file."
    )


def recipe_names() -> list[str]:
    """Names of the shipped recipes, such as `metrabs/demo_synthetic`; overlays come last."""
    folder = recipes_folder()
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml")]
    return sorted(names, key=lambda name: (name.startswith(OVERLAYS), name))


def find_recipe(name: str) -> Path:
    """Path of a recipe, from its name or from the path of any YAML file.

    Raises:
        PoseZooError: There is no such recipe or file; the message names the nearest.
    """
    if name.endswith(_SUFFIXES) and Path(name).is_file():
        return Path(name)
    wanted = name.removesuffix(".yaml").removesuffix(".yml")
    known = recipe_names()
    if wanted in known:
        return recipes_folder() / f"{wanted}.yaml"
    kind = "recipe or YAML file" if name.endswith(_SUFFIXES) else "recipe"
    raise PoseZooError(f"there is no {kind} '{name}': {did_you_mean(wanted, known)}")


def summary(path: Path) -> str:
    """First comment line of a recipe: what it is for, in one sentence."""
    with path.open(encoding="utf-8") as file:
        comments = (line.lstrip("#").strip() for line in file if line.startswith("#"))
        return next(filter(None, comments), "")
