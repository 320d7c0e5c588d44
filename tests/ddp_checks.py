"""Everything that needs two ranks, in one go: started with torchrun by test_ddp.py, because start-up is what costs.

torchrun --nproc_per_node 2 tests/ddp_checks.py FOLDER
"""

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from tests_cli_helpers import log_to, tiny
from torch import Tensor

from posezoo.__main__ import main
from posezoo.callbacks import NonFiniteGuard
from posezoo.data import SyntheticPeople
from posezoo.data.base import ImageError
from posezoo.data.synthetic.dataset import RenderedPeople
from posezoo.models import MeTRAbs
from posezoo.structures import Batch, Prediction, Sample


class OneSided(SyntheticPeople):
    """Rank 0 has 3D labels, rank 1 has none."""

    def people(self, split: str) -> RenderedPeople:
        self.weak_share = float(split == "train" and dist.is_initialized() and dist.get_rank() == 1)
        return super().people(split)


class Damaged(SyntheticPeople):
    """Four of the eight training images cannot be read."""

    def setup(self, stage: str) -> None:
        self.on_bad_image = "skip"
        super().setup(stage)

    def people(self, split: str) -> RenderedPeople:
        people = super().people(split)
        read = people.read

        def damaged(index: int, draw: int = 0) -> Sample:
            if split == "train" and index < 4:
                raise ImageError(f"Image {index} is damaged.")
            return read(index, draw)

        people.read = damaged  # type: ignore[method-assign]
        return people


class Buffers(pl.Callback):
    """Compares what is validated on the two ranks."""

    def __init__(self, path: str = "") -> None:
        self.path = path

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        ours = torch.cat([tensor.double().flatten() for tensor in pl_module.state_dict().values()])
        gap = spread(ours)
        if trainer.is_global_zero and not trainer.sanity_checking:
            Path(self.path).write_text(json.dumps({"gap": gap}))


class Faulty(MeTRAbs):
    """The loss of rank 1 is infinite in the second step, with gradients that are finite."""

    def losses(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        terms = super().losses(prediction, batch)
        if self.global_step == 1 and self.global_rank == 1:
            terms["relative"] = terms["relative"] + torch.inf
        return terms


def spread(values: Tensor) -> float:
    """Largest difference to the mean of both ranks."""
    mean = values.clone()
    dist.all_reduce(mean)
    gap = (values - mean / 2).abs().max()
    dist.all_reduce(gap, dist.ReduceOp.MAX)
    return float(gap)


def guard(folder: Path) -> None:
    """Three steps through Lightning's Python interface."""
    pl.seed_everything(0, verbose=False)
    callback, weights = NonFiniteGuard(), []

    class Diary(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            weights.append(torch.cat([p.detach().flatten().clone() for p in pl_module.parameters()]))

    model = Faulty(backbone="resnet10_w8", image_size=64, stride=16, optimizer=torch.optim.AdamW)
    data = SyntheticPeople(preset="easy", frame_size=64, batch_size=2, num_workers=0, image_size=64, train_length=12)
    options: dict[str, Any] = {"limit_val_batches": 0, "logger": False, "enable_checkpointing": False}
    trainer = pl.Trainer(
        accelerator="cpu", devices=2, max_steps=3, callbacks=[Diary(), callback], default_root_dir=folder,
        enable_progress_bar=False, enable_model_summary=False, **options,
    )  # fmt: skip
    trainer.fit(model, data)
    first, second, third = weights
    result = {
        "skipped": [callback.skipped, float((first - second).abs().max()), float((second - third).abs().max())],
        "gap": spread(third.double()),
    }
    (folder / f"guard-{trainer.global_rank}.json").write_text(json.dumps(result))


def run(folder: Path) -> None:
    """Fits, validations and tests on two ranks."""
    for n in (1, 5):
        options = [*tiny(val_length=n, devices=2), "--trainer.max_steps=2", f"--data.test_length={n}"]
        buffers = ["--trainer.callbacks+=EMA", "--trainer.callbacks+=Buffers"]
        buffers += [f"--trainer.callbacks.path={folder / f'buffers{n}.json'}"]
        assert not main(["fit", *options, *buffers, *log_to(folder, f"fit{n}")])
        checkpoint = f"--ckpt_path={folder / f'fit{n}' / 'checkpoints' / 'last.ckpt'}"
        for command in ("validate", "test"):
            assert not main([command, checkpoint, *options[-8:-2], *sizes(n), *log_to(folder, f"{command}{n}")])
    for profile in ("paper", "modern"):
        one_sided = [word.replace("=SyntheticPeople", "=OneSided") for word in tiny(devices=2)]
        options = [*one_sided, f"--model.profile={profile}", "--trainer.max_steps=2"]
        assert not main(["fit", *options, *log_to(folder, f"one_sided_{profile}")])
    with (folder / f"damaged-{dist.get_rank()}.txt").open("w") as output, redirect_stdout(output):
        words = [word.replace("=SyntheticPeople", "=Damaged") for word in tiny(devices=2)]
        assert not main(["fit", *words, "--trainer.max_epochs=1", *log_to(folder, "damaged")])
    guard(folder)


def sizes(n: int) -> list[str]:
    return [f"--data.val_length={n}", f"--data.test_length={n}"]


if __name__ == "__main__":
    run(Path(sys.argv[1]))
