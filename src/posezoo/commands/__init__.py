"""Subcommands that are not LightningCLI's: one module each.

A module has `add_arguments(parser)` and `run(args) -> int`; to add a command, write the module and its line
here. It is imported only when its command runs; heavy imports belong in functions.
"""

COMMANDS: dict[str, tuple[str, str]] = {
    "infer": ("posezoo.commands.infer", "3D poses of everybody in pictures, videos or a webcam"),
    "demo": ("posezoo.commands.demo", "train a small model on synthetic people, or try one on a picture"),
    "show-batch": ("posezoo.commands.show_batch", "draw what a recipe feeds its model"),
    "prepare": ("posezoo.commands.prepare", "make the fast layout of a dataset: small JPEGs and one index"),
    "list": ("posezoo.commands.list", "methods, datasets, skeletons and weights"),
    "describe": ("posezoo.commands.describe", "all there is to know about trained weights"),
    "download": ("posezoo.commands.download", "fetch weights before they are needed"),
    "convert": ("posezoo.commands.convert", "make weights of the authors' released checkpoints"),
    "export": ("posezoo.commands.export", "write a model as ONNX or torch.export, and check it"),
    "release": ("posezoo.commands.release", "make released weights of a checkpoint"),
    "compare": ("posezoo.commands.compare", "mean and spread over seeds of several runs"),
    "recipes": ("posezoo.commands.recipes", "ready-made configurations, or the text of one"),
    "env": ("posezoo.commands.env", "versions, devices and launcher, for bug reports"),
}
