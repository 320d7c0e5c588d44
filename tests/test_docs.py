"""The documentation: links lead somewhere, commands and recipes exist, Python examples run."""

import argparse
import ast
import functools
import importlib
import importlib.util
import itertools
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from posezoo.__main__ import LIGHTNING
from posezoo.commands import COMMANDS
from posezoo.commands.list import DATASETS, METHODS
from posezoo.recipes_index import recipe_names

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
CARDS = sorted((ROOT / "src").rglob("README.md"))
OTHERS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "examples").rglob("README.md"))]
SECONDS = 20.0  # CPU time that the examples of a page may take

FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"<!-- not executed: \S.*?-->\s*\Z", re.DOTALL)
LINK = re.compile(r"(?<!\\)\[[^\]\n]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(.+?)\s*$", re.MULTILINE)

# What a page's examples take for granted, by page.
BEFORE = {
    "protocols.md": (
        "import torch\npred = torch.randn(6, 17, 3) * 100\ntarget = torch.randn(6, 17, 3) * 100\nvalid = None\n"
        "action = torch.tensor([0, 0, 1, 1, 1, 0])\n"
    ),
}
# Pages whose examples need a photograph and weights; their own tests run them.
ELSEWHERE = {"inference.md": "test_inference_docs.py"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path, *languages: str) -> Iterator[tuple[str, bool]]:
    """Code of a page in these languages, and whether the page says that it is not to be executed."""
    text = path.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        if match[1] in languages:
            yield match[2], bool(MARK.search(text[: match.start()]))


def outside_code(path: Path) -> str:
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", path.read_text(encoding="utf-8")))


# ----------------------------------------------------------------------------------------------------- links


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and Python-Markdown agree on for plain words."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", lambda m: m[1] or "", heading).lower()
    return re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip())


@pytest.mark.parametrize("path", [*PAGES, *CARDS, *OTHERS], ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    for target in LINK.findall(outside_code(path)):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, anchor = target.partition("#")
        found = (path.parent / place).resolve() if place else path
        assert found.exists(), f"{name_of(path)} links to {target}, which does not exist"
        if anchor and found.suffix == ".md" and not anchor.startswith("posezoo."):  # those are made by mkdocstrings
            known = {slug(heading) for heading in HEADING.findall(FENCE.sub("", found.read_text(encoding="utf-8")))}
            assert anchor in known, f"{name_of(path)} links to {target}: no such heading"


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_pages_of_the_site_link_within_the_site(path: Path) -> None:
    for target in LINK.findall(outside_code(path)):
        if not re.match(r"[a-z]+:|#", target):
            found = (path.parent / target.partition("#")[0]).resolve()
            assert found.is_relative_to(DOCS), f"{name_of(path)} links to {target}, which is no page of the site"


def test_every_page_is_in_the_navigation() -> None:
    listed = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    missing = [page for page in (p.relative_to(DOCS).as_posix() for p in PAGES) if page not in listed]
    assert not missing, f"add to nav in mkdocs.yml: {', '.join(missing)}"


# -------------------------------------------------------------------------------------------------- commands


def commands(path: Path) -> Iterator[list[str]]:
    """`posezoo ...` of the page's shell examples, word by word, without comments."""
    for code, _ in blocks(path, "sh", "bash", "shell", ""):
        for line in code.replace("\\\n", " ").splitlines():
            words = re.sub(r"\s#.*|^#.*", "", line).split()
            if "posezoo" in words and (words[0] in ("posezoo", "srun") or words[:3] == ["python", "-m", "posezoo"]):
                yield words[words.index("posezoo") + 1 :]


def after(words: list[str], *flags: str) -> list[str]:
    """Values behind a flag."""
    split = [word.partition("=") for word in words]
    given = [value for flag, equals, value in split if equals and flag in flags]
    pairs = itertools.pairwise(words)
    return [value.strip("\"'") for value in given + [value for flag, value in pairs if flag in flags]]


@functools.cache
def flags(command: str) -> frozenset[str]:
    """Options of a subcommand that is not LightningCLI's."""
    parser = argparse.ArgumentParser()
    importlib.import_module(COMMANDS[command][0]).add_arguments(parser)
    return frozenset(option for action in parser._actions for option in action.option_strings)


@pytest.mark.parametrize("path", [*PAGES, *CARDS, *OTHERS], ids=name_of)
def test_shell_examples_use_commands_recipes_and_classes_that_exist(path: Path) -> None:
    known_recipes, plugins = set(recipe_names()), {"LaplacePose", "my_file.LaplacePose"}
    names = {*METHODS, *plugins}
    for words in commands(path):
        line = " ".join(["posezoo", *words])
        known = {*LIGHTNING, *COMMANDS, "--version", "--help"}
        assert not words or words[0] in known, f"{name_of(path)}: no command `{line}`"
        for recipe in after(words, "-c", "--config"):
            exempt = not words or recipe.isupper() or recipe.endswith((".yaml", ".yml"))
            assert exempt or recipe in known_recipes, f"{name_of(path)}: no recipe {recipe}"
        if words and words[0] in COMMANDS:
            unknown = {word.partition("=")[0] for word in words if word.startswith("--")} - flags(words[0])
            assert not unknown, f"{name_of(path)}: no {', '.join(sorted(unknown))} in `{line}`"
            continue
        for model in after(words, "--model"):
            assert model in names, f"{name_of(path)}: no method {model}"
        for data in after(words, "--data"):
            assert data in DATASETS or data.isupper() or "." in data, f"{name_of(path)}: no dataset {data}"


# ---------------------------------------------------------------------------------------------------- Python


@pytest.mark.parametrize("path", [p for p in PAGES if any(blocks(p, "python"))], ids=name_of)
def test_python_examples_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page in order, in one namespace and an empty folder, within a bound of CPU time."""
    if path.name in ELSEWHERE:
        assert (ROOT / "tests" / ELSEWHERE[path.name]).is_file()
        return
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {"__name__": "__docs__"}
    exec(BEFORE.get(path.name, ""), space)
    started = time.process_time()
    for code, skipped in blocks(path, "python"):
        if not skipped:
            exec(compile(code, name_of(path), "exec"), space)
    assert time.process_time() - started < SECONDS


@pytest.mark.parametrize("path", [*PAGES, *CARDS, *OTHERS], ids=name_of)
def test_examples_that_do_not_run_import_names_that_exist(path: Path) -> None:
    for code, _ in blocks(path, "python"):
        if "--8<--" in code:
            continue
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "posezoo":
                exec(compile(ast.Module([node], []), name_of(path), "exec"), {})


def test_the_front_pages_numbers_come_out_as_the_comments_say(capsys: pytest.CaptureFixture[str]) -> None:
    """Examples with a result in a comment: RootNet's distance, the soft-argmax, the reconstruction."""
    pages = [DOCS / "methods" / f"{name}.md" for name in ("rootnet", "integral", "metrabs")]
    for page in pages:
        for code, skipped in blocks(page, "python"):
            if not skipped:
                exec(compile(code, page.name, "exec"), {})
    distance, voxel, pose = (re.sub(r"\s+", " ", text) for text in capsys.readouterr().out.strip().split("tensor")[1:])
    assert float(distance.strip("([]) ")) == pytest.approx(1500 * 2000 / 256)
    assert [round(float(word), 3) for word in re.findall(r"[-\d.]+", voxel)[:3]] == [5, 2, 3]
    numbers = [float(word) for word in re.findall(r"-?\d[-+\d.e]*", pose)]
    assert numbers == pytest.approx([0, 0, 4000, 100, -200, 4100, -300, 250, 3900], abs=0.5)


# --------------------------------------------------------------------------------------------- figures, site


def test_the_figures_are_what_the_script_draws() -> None:
    path = DOCS / "figures" / "draw.py"
    spec = importlib.util.spec_from_file_location("draw", path)
    assert spec is not None
    assert spec.loader is not None
    draw = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(draw)
    for name, make in draw.FIGURES.items():
        assert (DOCS / "figures" / f"{name}.svg").read_text(encoding="utf-8") == make().svg(), (
            "run docs/figures/draw.py"
        )


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="mkdocs-material is not installed: pip install -e '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "site" / "methods" / "metrabs" / "index.html").read_text(encoding="utf-8")
    assert "Absolute reconstruction" in page, "the model card is not included"
    assert 'class="arithmatex"' in page
