"""Callbacks that every method shares."""

from posezoo.callbacks.checkpoints import AtomicCheckpointIO, BestCheckpoint, LastCheckpoint
from posezoo.callbacks.colour import ColourOnDevice
from posezoo.callbacks.compile_network import CompileNetwork
from posezoo.callbacks.ema import EMA
from posezoo.callbacks.guard import NonFiniteGuard
from posezoo.callbacks.pose_images import PoseImages
from posezoo.callbacks.pose_metrics import PoseMetrics
from posezoo.callbacks.prediction_writer import PredictionWriter
from posezoo.callbacks.run_config import SaveRunConfig

__all__ = [
    "EMA",
    "AtomicCheckpointIO",
    "BestCheckpoint",
    "ColourOnDevice",
    "CompileNetwork",
    "LastCheckpoint",
    "NonFiniteGuard",
    "PoseImages",
    "PoseMetrics",
    "PredictionWriter",
    "SaveRunConfig",
]
