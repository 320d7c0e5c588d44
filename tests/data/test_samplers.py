"""Training order that can be resumed; evaluation that sees every sample once."""

import pytest
from torch.utils.data import DistributedSampler

from posezoo.data.samplers import EvalSampler, TrainSampler


def ranks(count: int, length: int, epoch: int = 0, seed: int = 0) -> list[TrainSampler]:
    samplers = [TrainSampler(range(length), seed, num_replicas=count, rank=rank) for rank in range(count)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    return samplers


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("length", [6, 7, 20])
def test_ranks_share_the_samples_evenly_without_overlap(count: int, length: int) -> None:
    parts = [list(sampler) for sampler in ranks(count, length)]
    assert [len(part) for part in parts] == [length // count] * count
    assert [len(sampler) for sampler in ranks(count, length)] == [length // count] * count
    seen = [index for part in parts for index, _ in part]
    assert len(set(seen)) == len(seen) == length // count * count
    assert set(seen) <= set(range(length))


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[tuple[int, int]]:
        return list(ranks(1, 40, epoch, seed)[0])

    assert order(3, 2) == order(3, 2)
    assert len({tuple(index for index, _ in order(seed, epoch)) for seed in (0, 1, 2) for epoch in range(4)}) == 12
    assert {draw for _, draw in order(0, 5)} == {5}
    sampler = ranks(1, 40)[0]
    assert list(sampler) == list(sampler)  # iterating does not advance the epoch


def test_every_sample_is_trained_on_although_a_rest_is_dropped() -> None:
    seen = {index for epoch in range(12) for sampler in ranks(3, 20, epoch) for index, _ in sampler}
    assert seen == set(range(20))


@pytest.mark.parametrize("start", [0, 1, 7, 10])
def test_resuming_goes_on_where_the_other_stopped(start: int) -> None:
    whole = ranks(2, 20, epoch=4)[1]
    state = {**whole.state_dict(), "start": start}
    resumed = TrainSampler(range(20), num_replicas=2, rank=1)
    resumed.load_state_dict(state)
    assert list(resumed) == list(whole)[start:]
    assert len(resumed) == 10  # the trainer counts the batches before the stop, too
    assert resumed.state_dict() == state


def test_the_epoch_after_a_resumed_one_is_whole() -> None:
    sampler = TrainSampler(range(20), num_replicas=2, rank=0)
    sampler.load_state_dict({"epoch": 4, "start": 6})
    sampler.set_epoch(4)  # the trainer announces the epoch that it resumes
    assert len(list(sampler)) == 4
    sampler.set_epoch(5)
    assert len(list(sampler)) == 10
    assert list(sampler) == list(ranks(2, 20, epoch=5)[0])


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("length", range(1, 10))
def test_evaluation_covers_each_sample_exactly_once(count: int, length: int) -> None:
    samplers = [EvalSampler(range(length), num_replicas=count, rank=rank) for rank in range(count)]
    parts = [list(sampler) for sampler in samplers]
    assert [len(part) for part in parts] == [len(sampler) for sampler in samplers]
    seen = [index for part in parts for index in part]
    assert set(seen) == set(range(length))
    if length >= count:
        assert sorted(seen) == list(range(length))
        assert all(part == sorted(part) for part in parts)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    else:  # an empty rank would hang; metrics skip the padding ranks
        assert [len(part) for part in parts] == [1] * count
    assert [sampler.is_padding for sampler in samplers] == [rank >= length for rank in range(count)]


def test_an_empty_split_has_no_samples() -> None:
    assert list(EvalSampler([])) == []
    assert len(EvalSampler([], num_replicas=2, rank=1)) == 0


def test_outside_a_distributed_job_there_is_one_process() -> None:
    assert len(TrainSampler(range(5))) == len(EvalSampler(range(5))) == 5


@pytest.mark.parametrize("sampler", [TrainSampler, EvalSampler])
def test_lightning_leaves_them_in_place(sampler: type) -> None:
    """On several devices it replaces every sampler that is not a DistributedSampler."""
    assert issubclass(sampler, DistributedSampler)
