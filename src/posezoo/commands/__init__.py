"""Subcommands that are not LightningCLI's: one module each.

A module has `add_arguments(parser)` and `run(args) -> int`; to add a command, write the module and its line
here. It is imported only when its command runs; heavy imports belong in functions.
"""

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("posezoo.commands.demo", "train a small model on synthetic people, or try one on a picture"),
    "show-batch": ("posezoo.commands.show_batch", "draw what a recipe feeds its model"),
    "list": ("posezoo.commands.list", "methods, datasets, skeletons and weights"),
    "recipes": ("posezoo.commands.recipes", "ready-made configurations, or the text of one"),
    "env": ("posezoo.commands.env", "versions, devices and launcher, for bug reports"),
}
