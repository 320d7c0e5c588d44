"""All methods. Importing one makes it known to the command line."""

from posezoo.models.base import PoseEstimator
from posezoo.models.hemlets import HEMlets
from posezoo.models.integral import IntegralPose
from posezoo.models.metrabs import MeTRAbs
from posezoo.models.partaware import PartAware, PartAwareSearch
from posezoo.models.rootnet import RootNet

__all__ = ["HEMlets", "IntegralPose", "MeTRAbs", "PartAware", "PartAwareSearch", "PoseEstimator", "RootNet"]
