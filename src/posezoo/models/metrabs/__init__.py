"""MeTRAbs: see README.md (model card)."""

from posezoo.models.metrabs.estimator import MeTRAbs, two_phase_decay
from posezoo.models.metrabs.losses import ModernLosses, PaperLosses
from posezoo.models.metrabs.network import Heads, MeTRAbsNetwork

__all__ = ["Heads", "MeTRAbs", "MeTRAbsNetwork", "ModernLosses", "PaperLosses", "two_phase_decay"]
