"""Part-aware pose by architecture search: search, derive, retrain."""

from posezoo.models.partaware.estimator import PartAware
from posezoo.models.partaware.search import PartAwareSearch

__all__ = ["PartAware", "PartAwareSearch"]
