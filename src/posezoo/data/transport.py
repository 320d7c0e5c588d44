"""How batches come from loader processes: in one block of shared memory instead of one for each field.

Every tensor that a loader process sends costs a file descriptor, two mappings and messages. A `Batch` has over twenty
of them, all but one small.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate, get_worker_info

_ALIGNMENT = 64  # bytes: a cache line, and more than any type of number needs

Field = tuple[str, torch.dtype, tuple[int, ...], int]  # name, type, shape, place of its first byte


def collate(rows: list[dict[str, Tensor]]) -> Any:
    """Rows to a batch, as torch's `default_collate`; in a loader process, what arrives in the other as that batch."""
    if get_worker_info() is None:
        return default_collate(rows)
    return PackedBatch(rows)


class PackedBatch:
    """A batch on its way: one block of shared memory that unpickles as the dictionary of its fields.

    Args:
        rows: Dictionaries of tensors with the same names, types and shapes.
    """

    def __init__(self, rows: list[dict[str, Tensor]]) -> None:
        self.fields, size = _layout(rows)
        # Already in shared memory, as default_collate does it: else the pixels would be copied once more.
        self.block = torch.empty(0, dtype=torch.uint8).set_(torch.UntypedStorage._new_shared(size, device="cpu"))
        for name, view in unpack(self.block, self.fields).items():
            torch.stack([row[name] for row in rows], out=view)

    def __reduce__(self) -> Any:
        return unpack, (self.block, self.fields)


def unpack(block: Tensor, fields: tuple[Field, ...]) -> dict[str, Tensor]:
    """The fields of a batch as views of its block; nothing is copied."""
    return {name: _view(block, dtype, shape, start) for name, dtype, shape, start in fields}


def _view(block: Tensor, dtype: torch.dtype, shape: tuple[int, ...], start: int) -> Tensor:
    count = torch.Size(shape).numel()
    return block[start : start + count * dtype.itemsize].view(dtype).view(shape)


def _layout(rows: list[dict[str, Tensor]]) -> tuple[tuple[Field, ...], int]:
    """Where each field of a batch lies, and how many bytes they need."""
    fields, end = [], 0
    for name, value in rows[0].items():
        shape = (len(rows), *value.shape)
        fields.append((name, value.dtype, shape, end))
        size = torch.Size(shape).numel() * value.dtype.itemsize
        end += -(-size // _ALIGNMENT) * _ALIGNMENT
    return tuple(fields), end
