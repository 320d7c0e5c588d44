"""The search on two processes: both have one architecture and the same weights, and those of one process."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.utilities import CombinedLoader
from tests_cli_helpers import log_to
from torch import Tensor, nn
from torch.utils.data import DataLoader

from posezoo.__main__ import main
from posezoo.models import PartAwareSearch
from posezoo.structures import Batch
from posezoo.testing import synthetic_batch

SIZES: dict[str, Any] = {
    "backbone": "resnet10_w8", "image_size": 64, "stride": 16, "depth_bins": 16, "widths": [8], "skeleton": "h36m17",
    "groups": "g2_updown",
}  # fmt: skip
STEPS = 5


def spread(values: Tensor) -> float:
    """Largest difference between the two ranks."""
    other = values.clone()
    dist.broadcast(other, src=0)
    gap = (values - other).abs().max()
    dist.all_reduce(gap, dist.ReduceOp.MAX)
    return float(gap)


class Ranks(pl.Callback):
    """Writes how far the ranks are apart at the end of training, and how far the architecture has moved."""

    def __init__(self, path: str = "") -> None:
        self.path = path

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.start = torch.cat([p.detach().flatten().clone() for p in pl_module.arch_parameters()])

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        arch = torch.cat([p.detach().flatten() for p in pl_module.arch_parameters()])
        weights = torch.cat([p.detach().flatten() for p in pl_module.weights().values()])
        result = {"arch": spread(arch), "weights": spread(weights), "moved": float((arch - self.start).abs().max())}
        if trainer.is_global_zero:
            Path(self.path).write_text(json.dumps(result))


def command(folder: Path, order: int) -> list[str]:
    """A search of two epochs with different people on each rank."""
    sizes = [f"--model.{key}={value}" for key, value in (SIZES | {"arch_warmup": 1, "order": order}).items()]
    people = ["preset=easy", "frame_size=64", "train_length=32", "val_length=3", "batch_size=2"]
    return [
        "fit", "--model=PartAwareSearch", *sizes, "--data=SearchSplit", "--data.dataset=SyntheticPeople",
        *(f"--data.dataset.{word}" for word in people), "--data.num_workers=0", "--trainer.max_epochs=2",
        "--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false", "--trainer.callbacks+=Ranks",
        f"--trainer.callbacks.path={folder / f'order{order}.json'}", *log_to(folder, f"order{order}"),
    ]  # fmt: skip


class FrozenNorms(PartAwareSearch):
    """BatchNorm with its initial statistics, so that a batch may be split over processes."""

    def train(self, mode: bool = True) -> "FrozenNorms":
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self


def streams(rank: int, ranks: int) -> CombinedLoader:
    """Five batches of four people in each stream; a rank gets its share of every batch."""

    def share(seed: int) -> Batch:
        batch: Any = synthetic_batch(4, "h36m17", 64, seed=seed)
        return {key: value.chunk(ranks)[rank] for key, value in batch.items()}  # type: ignore[return-value]

    def loader(first: int) -> DataLoader[Any]:
        return DataLoader([share(first + n) for n in range(STEPS)], batch_size=None)  # type: ignore[arg-type]

    return CombinedLoader({"train": loader(0), "arch": loader(100)}, "min_size")


def after_five_steps(rank: int, ranks: int, folder: Path) -> dict[str, Tensor]:
    """Parameters after plain gradient descent, in float64: the first gradients of the architecture are tiny."""
    torch.manual_seed(0)
    descent = {
        "optimizer": lambda p: torch.optim.SGD(p, lr=1e-3),
        "arch_optimizer": lambda p: torch.optim.SGD(p, lr=100.0),
    }
    model = FrozenNorms(**SIZES, arch_warmup=0, clip=0.0, **descent).train()  # type: ignore[arg-type]
    options: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        accelerator="cpu", precision="64-true", devices=ranks, max_epochs=1,
        use_distributed_sampler=False, enable_model_summary=False,
        default_root_dir=folder, **options,
    )  # fmt: skip
    trainer.fit(model, train_dataloaders=streams(rank, ranks))
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def run(folder: Path) -> None:
    """Everything that needs two ranks, in one start: that is what costs."""
    for order in (1, 2):
        assert not main(command(folder, order))
    found = after_five_steps(int(os.environ["LOCAL_RANK"]), 2, folder / "split")
    if os.environ["LOCAL_RANK"] == "0":
        torch.save(found, folder / "two.pt")


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("partaware")
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", __file__, str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    result = subprocess.run(start, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    return folder


@pytest.mark.parametrize("order", [1, 2])
def test_both_ranks_have_one_architecture_and_the_same_weights(order: int, two_ranks: Path) -> None:
    result = json.loads((two_ranks / f"order{order}.json").read_text())
    assert (result["arch"], result["weights"]) == (0, 0)
    assert result["moved"] > 1e-4
    assert (two_ranks / f"order{order}" / "genotype.yaml").is_file()


def test_two_processes_search_as_one_with_the_whole_batch(two_ranks: Path, tmp_path: Path) -> None:
    two, one = torch.load(two_ranks / "two.pt", weights_only=True), after_five_steps(0, 1, tmp_path)
    torch.manual_seed(0)
    start = dict(FrozenNorms(**SIZES).named_parameters())
    assert {name for name in one if ".arch." in name}
    moved = max(float((one[name] - start[name]).abs().max()) for name in one if ".arch." in name)
    assert moved > 1e-3
    gaps = {name: float((two[name] - value).abs().max()) for name, value in one.items()}
    assert max(gaps.values()) < 1e-8, {name: gap for name, gap in gaps.items() if gap >= 1e-8}


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(Path(sys.argv[1]))
