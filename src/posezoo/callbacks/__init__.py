"""Callbacks that every method shares."""

from posezoo.callbacks.pose_metrics import PoseMetrics
from posezoo.callbacks.prediction_writer import PredictionWriter
from posezoo.callbacks.run_config import SaveRunConfig

__all__ = ["PoseMetrics", "PredictionWriter", "SaveRunConfig"]
