"""`check_estimator` accepts our methods and catches broken ones."""

from typing import Any

import pytest
import torch

from posezoo.models import MeTRAbs
from posezoo.models.base import PoseEstimator
from posezoo.structures import Batch, Prediction
from posezoo.testing import check_estimator, synthetic_batch


@pytest.mark.parametrize("profile", ["paper", "modern"])
def test_our_methods_keep_the_contract(profile: str) -> None:
    check_estimator(MeTRAbs, profile=profile)


def test_a_loss_cut_off_from_the_graph_is_found() -> None:
    class Detached(MeTRAbs):
        def losses(self, prediction: Prediction, batch: Batch) -> dict[str, torch.Tensor]:
            return {"zero": torch.zeros(())}

    with pytest.raises(AssertionError, match="graph"):
        check_estimator(Detached)


def test_a_shifted_root_is_found() -> None:
    class Shifted(MeTRAbs):
        def estimate(self, batch: Batch) -> Prediction:
            prediction = super().estimate(batch)
            prediction.joints3d_rel = prediction.joints3d_rel + 5.0
            return prediction

    with pytest.raises(AssertionError, match="root"):
        check_estimator(Shifted)


def test_batches_say_what_they_withhold() -> None:
    weak = synthetic_batch(labels="2d")
    assert not weak["valid3d"].any()
    assert weak["valid2d"].all()
    assert not weak["joints3d"].any()
    with pytest.raises(ValueError, match="labels"):
        synthetic_batch(labels="4d")


def test_every_method_is_known_by_its_class_name() -> None:
    known: dict[str, Any] = PoseEstimator.known_methods()
    assert known["MeTRAbs"] is MeTRAbs
