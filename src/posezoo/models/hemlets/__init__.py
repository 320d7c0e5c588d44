"""HEMlets: see README.md (model card)."""

from posezoo.models.hemlets.estimator import HEMlets
from posezoo.models.hemlets.network import HEMletsNetwork
from posezoo.models.hemlets.official import load_official
from posezoo.models.hemlets.targets import MapTargets, Parts, encode, find_parts, part_order, polarity, read_polarity

__all__ = [
    "HEMlets",
    "HEMletsNetwork",
    "MapTargets",
    "Parts",
    "encode",
    "find_parts",
    "load_official",
    "part_order",
    "polarity",
    "read_polarity",
]
