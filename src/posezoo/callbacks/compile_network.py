"""Compiling a method's network with torch.compile; everything around it stays as it is."""

from typing import Any

import pytorch_lightning as pl
import torch

from posezoo.errors import PoseZooError, did_you_mean


class CompileNetwork(pl.Callback):
    """Compiles the model's network for training (`--trainer.callbacks+=CompileNetwork`), never the LightningModule.

    With it, what draws HEMlets' target maps. Losses, reconstruction, logging and the optimiser's step run as usual, and
    names in checkpoints do not change. The first steps take a minute or more, and so does every new batch shape. Inside
    a compiled network, the soft-argmax is its plain formulation, which stores the volume.

    Args:
        backend: Of torch.compile.
        mode: Of torch.compile, for example "max-autotune-no-cudagraphs"; None for its default.

    Raises:
        PoseZooError: torch.compile has no such backend or mode.
    """

    def __init__(self, backend: str = "inductor", mode: str | None = None) -> None:
        from torch._inductor import list_mode_options  # the compiler takes a second to import

        backends = torch.compiler.list_backends(exclude_tags=())
        if backend not in backends:
            raise PoseZooError(f"unknown backend '{backend}' of CompileNetwork: {did_you_mean(backend, backends)}")
        modes = list_mode_options()
        if mode is not None and mode not in modes:
            raise PoseZooError(f"unknown mode '{mode}' of CompileNetwork: {did_you_mean(mode, modes)}")
        self.backend, self.mode = backend, mode

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Mark what is to be compiled, when it first runs."""
        if stage == "fit":
            options: Any = {"backend": self.backend, "mode": self.mode, "dynamic": False}
            pl_module.network.compile(**options)
            for name in pl_module.compilable:
                setattr(pl_module, name, torch.compile(getattr(pl_module, name), **options))

    def teardown(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Leave the model as it was before the fit."""
        if stage == "fit":
            pl_module.network._compiled_call_impl = None  # what Module.compile() sets; there is no undoing it otherwise
            for name in pl_module.compilable:
                pl_module.__dict__.pop(name, None)
