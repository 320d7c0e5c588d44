"""Wheel and source archive hold what they must, and an installed wheel works outside the repository."""

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path, PurePosixPath

import pytest

pytest.importorskip("hatchling", reason="hatchling is in the dev extra: pip install -e '.[dev]'")

REPOSITORY = Path(__file__).resolve().parents[1]
RECIPES = sorted(p.relative_to(REPOSITORY / "recipes").as_posix() for p in REPOSITORY.glob("recipes/**/*.yaml"))


def run(*command: str | Path, cwd: Path) -> str:
    """Output of a command that must succeed; nothing of this checkout or this session leaks into it."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST_", "POSEZOO_"))}
    env |= {"OMP_NUM_THREADS": "1", "NO_ALBUMENTATIONS_UPDATE": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def build(target: str, source: Path, folder: Path) -> Path:
    before = set(folder.glob("*"))
    run(sys.executable, "-m", "hatchling", "build", "-t", target, "-d", folder, cwd=source)
    (built,) = set(folder.glob("*")) - before
    return built


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", REPOSITORY, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", REPOSITORY, tmp_path_factory.mktemp("wheel"))


def names_in(archive: Path) -> set[str]:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as file:
            return set(file.namelist())
    with tarfile.open(archive) as file:
        return {str(PurePosixPath(*PurePosixPath(name).parts[1:])) for name in file.getnames()}


def test_the_wheel_holds_recipes_catalogue_types_and_licence(wheel: Path) -> None:
    names = names_in(wheel)
    package = {name for name in names if not name.startswith("posezoo-")}

    assert {n.removeprefix("posezoo/recipes/") for n in names if n.endswith(".yaml")} >= set(RECIPES)
    assert {"posezoo/zoo.toml", "posezoo/py.typed", "posezoo/__main__.py"} <= package
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert {name.split("/")[0] for name in package} == {"posezoo"}
    assert not [n for n in names if "__pycache__" in n or n.endswith((".ckpt", ".npz"))]


def test_the_source_archive_is_enough_to_build_and_test(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    names = names_in(sdist)
    wanted = {"pyproject.toml", "Makefile", ".ci/run", "LICENSE", "CITATION.cff", "tests/conftest.py"}
    assert wanted | {f"recipes/{recipe}" for recipe in RECIPES} <= names
    assert not [name for name in names if name.startswith((".venv", "runs", "demo", "dist"))]

    with tarfile.open(sdist) as file:
        file.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    (tmp_path / "out").mkdir()
    assert names_in(build("wheel", source, tmp_path / "out")) == names_in(wheel)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`bin` folder of a fresh environment with the wheel; it borrows the dependencies of this one (6 GB)."""
    home = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(home, with_pip=True)
    binaries = home / ("Scripts" if os.name == "nt" else "bin")
    run(binaries / "python", "-m", "pip", "install", "--no-index", "--no-deps", wheel, cwd=home)
    # After pip, which would otherwise see this environment's posezoo and do nothing. Only the folders are
    # borrowed: the .pth files inside them, and with them this editable checkout, are not read.
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(run(binaries / "python", "-c", where, cwd=home).strip())
    borrowed = [path for path in sys.path if path.endswith("site-packages")]
    (site / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    return binaries


@pytest.mark.slow
def test_an_installed_wheel_is_used_instead_of_this_checkout(installed: Path, tmp_path: Path) -> None:
    place = run(installed / "python", "-c", "import posezoo; print(posezoo.__file__)", cwd=tmp_path)
    assert Path(place.strip()).is_relative_to(installed.parent)
    assert "posezoo 0." in run(installed / "posezoo", "--version", cwd=tmp_path)


@pytest.mark.slow
def test_an_installed_wheel_lists_and_finds_its_recipes(installed: Path, tmp_path: Path) -> None:
    assert "MeTRAbs" in run(installed / "posezoo", "list", cwd=tmp_path)
    listed = run(installed / "posezoo", "recipes", cwd=tmp_path)
    for recipe in RECIPES:
        name = recipe.removesuffix(".yaml")
        assert name in listed
        assert run(installed / "posezoo", "recipes", name, cwd=tmp_path) == (REPOSITORY / "recipes" / recipe).read_text(
            encoding="utf-8"
        )


@pytest.mark.slow
def test_an_installed_wheel_trains_and_its_checkpoint_loads(installed: Path, tmp_path: Path) -> None:
    limits = [
        "--trainer.max_steps=3",
        "--trainer.val_check_interval=3",
        "--trainer.limit_val_batches=1",
        "--trainer.accelerator=cpu",
        "--trainer.devices=1",
        "--trainer.enable_progress_bar=false",
        "--data.batch_size=2",
        "--data.train_length=16",
        "--data.val_length=4",
        "--data.num_workers=0",
    ]
    run(installed / "posezoo", "fit", "-c", "metrabs/demo_synthetic", *limits, cwd=tmp_path)

    checkpoints = sorted(tmp_path.glob("**/*.ckpt"))
    assert checkpoints, "the run left no checkpoint"
    code = "import sys, posezoo; print(type(posezoo.load_model(sys.argv[1])).__name__)"
    assert run(installed / "python", "-c", code, checkpoints[0], cwd=tmp_path).strip() == "MeTRAbs"
