"""All methods. Importing one makes it known to the command line."""

from posezoo.models.base import PoseEstimator
from posezoo.models.metrabs import MeTRAbs

__all__ = ["MeTRAbs", "PoseEstimator"]
