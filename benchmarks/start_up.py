"""The command line's start-up, in CPU-seconds of a fresh process."""

import subprocess
import sys

from benchmarks.cases import OURS, REFERENCE, Bench, Case, Target, register
from benchmarks.core import ROOT
from posezoo import __version__

# What a training framework's command line usually imports before it looks at its arguments.
EVERYTHING = "import torch, torchvision, pytorch_lightning, torchmetrics, timm, cv2, matplotlib.pyplot"
# What `fit --help` cannot do without: LightningCLI prints the arguments of the Trainer.
UNAVOIDABLE = "import torch, torchmetrics, pytorch_lightning.cli"
COMMANDS = {"version": ("--version",), "fit-help": ("fit", "--help")}
PROOF = {"version": __version__, "fit-help": "--trainer.max_epochs"}


def run(*arguments: str) -> str:
    """Output of a Python process that must succeed."""
    return subprocess.run([sys.executable, *arguments], stdout=subprocess.PIPE, text=True, cwd=ROOT, check=True).stdout


def make(command: str, imports: str, quick: bool) -> Bench:
    calls = {REFERENCE: lambda: run("-c", imports), OURS: lambda: run("-m", "posezoo", *COMMANDS[command])}

    def errors() -> dict[str, float]:
        """0 where it answers what it was asked."""
        return {REFERENCE: 0.0, OURS: float(PROOF[command] not in calls[OURS]())}

    return Bench(calls, errors, {REFERENCE: 0.0, OURS: 0.0})


register(
    Case("start_up/version", make, {"command": "version", "imports": EVERYTHING}, (Target("seconds", 0.25),)),
    Case("start_up/fit-help", make, {"command": "fit-help", "imports": UNAVOIDABLE}, (Target("speed", 1 / 1.2),)),
)
