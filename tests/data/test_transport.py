"""Batches that travel in one block of shared memory are those that torch would collate."""

import pickle
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from posezoo.data.transport import PackedBatch, collate, unpack


def rows(count: int) -> list[dict[str, Tensor]]:
    """Fields of every type of a `Batch`, with sizes that no alignment likes."""
    g = torch.Generator().manual_seed(0)
    return [
        {
            "image": torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8, generator=g),
            "joints": torch.randn(17, 3, generator=g),
            "order": torch.randint(-1, 2, (3,), dtype=torch.int8, generator=g),
            "valid": torch.rand(17, generator=g) < 0.5,
            "index": torch.tensor(number),
            "nothing": torch.zeros(0),
            "double": torch.randn(2, dtype=torch.float64, generator=g),
        }
        for number in range(count)
    ]


class Rows(Dataset[Any]):
    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return rows(7)[index]


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert value.dtype == other[key].dtype
        assert torch.equal(value, other[key]), key


def test_packing_changes_nothing() -> None:
    packed = PackedBatch(rows(5))
    assert_equal(unpack(packed.block, packed.fields), default_collate(rows(5)))
    arrived = pickle.loads(bytes(ForkingPickler.dumps(packed)))
    assert_equal(arrived, default_collate(rows(5)))


def test_fields_do_not_overlap() -> None:
    packed = PackedBatch(rows(3))
    fields = unpack(packed.block, packed.fields)
    for name in fields:
        before = {key: value.clone() for key, value in fields.items() if key != name}
        fields[name].fill_(1)
        assert_equal({key: value for key, value in fields.items() if key != name}, before)


def test_a_loader_process_sends_one_block() -> None:
    here = list(DataLoader(Rows(), 3, collate_fn=collate))
    there = list(DataLoader(Rows(), 3, collate_fn=collate, num_workers=1))
    assert len(here) == len(there) == 3
    for one, other in zip(here, there, strict=True):
        assert_equal(one, other)
        blocks = {value.untyped_storage().data_ptr() for value in other.values() if value.numel()}
        assert len(blocks) == 1
        assert all(value.is_contiguous() for value in other.values())
