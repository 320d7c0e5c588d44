"""List the ready-made configurations, or print one to copy and change."""

import argparse

from posezoo.recipes_index import OVERLAYS, find_recipe, recipe_names, summary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `posezoo recipes` takes."""
    parser.add_argument("name", nargs="?", help="print this recipe instead of the list")


def run(args: argparse.Namespace) -> int:
    """Print the list, or the text of one recipe."""
    if args.name:
        print(find_recipe(args.name).read_text(encoding="utf-8"), end="")
        return 0
    names = recipe_names()
    recipes = [name for name in names if not name.startswith(OVERLAYS)]
    overlays = [name for name in names if name.startswith(OVERLAYS)]
    _print_table("Recipes (posezoo fit -c NAME):", recipes)
    if overlays:
        print()
        _print_table("Overlays (posezoo fit -c RECIPE -c NAME):", overlays)
    return 0


def _print_table(title: str, names: list[str]) -> None:
    print(title)
    width = max(map(len, names), default=0)
    for name in names:
        print(f"  {name:<{width}}  {summary(find_recipe(name))}".rstrip())
    if not names:
        print("  none yet")
