"""From a loader process to the main one: float images and maps beside the rows that posezoo ships."""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.cases import OURS, REFERENCE, Bench, Case, Target, register
from posezoo.data.base import single_threaded
from posezoo.data.transport import collate
from posezoo.testing import synthetic_batch

SIDE, MAPS, MAP_SIDE, BATCH = 256, 60, 64, 32
MEAN, STD = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


class Ready(Dataset[dict[str, Tensor]]):
    """A few rows over and over: making them costs nothing, so that only their way is measured."""

    def __init__(self, rows: list[dict[str, Tensor]], length: int) -> None:
        self.rows, self.length = rows, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.rows[index % len(self.rows)]


def our_rows(count: int) -> list[dict[str, Tensor]]:
    """Every field of a `Batch`, image included, as `CropDataset` makes them."""
    batch: dict[str, Any] = dict(synthetic_batch(count, "hemlets18", SIDE))
    return [{key: value[at].clone() for key, value in batch.items()} for at in range(count)]


def reference_rows(count: int) -> list[dict[str, Tensor]]:
    """Normalised float images, the maps of HEMlets, joints."""
    rows = our_rows(count)
    return [
        {
            "image": (row["image"] / 255 - MEAN) / STD,
            "maps": torch.zeros(MAPS, MAP_SIDE, MAP_SIDE),
            "joints3d": row["joints3d"],
            "joints2d": row["joints2d"],
        }
        for row in rows
    ]


def epoch(rows: list[dict[str, Tensor]], length: int, collate_fn: Any = None) -> Tensor:
    """One pass through one worker; the first image of the last batch."""
    loader = DataLoader(
        Ready(rows, length), BATCH, num_workers=1, collate_fn=collate_fn, worker_init_fn=single_threaded
    )
    last = torch.empty(0)
    for batch in loader:
        last = batch["image"][0]
    return last


def make(quick: bool) -> Bench:
    length = BATCH * (2 if quick else 40)  # so many that starting the worker is a small share
    rows = {REFERENCE: reference_rows(4), OURS: our_rows(4)}
    calls = {
        REFERENCE: partial(epoch, rows[REFERENCE], length),
        OURS: partial(epoch, rows[OURS], length, collate),
    }

    def errors() -> dict[str, float]:
        exact = rows[OURS][0]["image"].double()
        arrived = {REFERENCE: (calls[REFERENCE]().double() * STD + MEAN) * 255, OURS: calls[OURS]().double()}
        return {name: float((image - exact).abs().max()) for name, image in arrived.items()}

    return Bench(calls, errors, {REFERENCE: 1e-3, OURS: 0.0}, items=length)


register(Case("transport/one-worker", make, {}, (Target("speed", 5.0),), "grey levels", most_rounds=7))
