"""What all converters share."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posezoo.disk import replace_file
from posezoo.errors import PoseZooError
from posezoo.fetch import sha256
from posezoo.models.base import PoseEstimator
from posezoo.release import describe_estimator, model_card
from posezoo.zoo import CARD_FILE, StoredType, save_model


def card_of(
    estimator: PoseEstimator, name: str, licence: str, files: Sequence[Path], data: str, note: str
) -> dict[str, Any]:
    """What a converted model says about itself.

    Args:
        estimator: The model.
        name: `method_backbone.official`.
        licence: The authors' terms, in the user's words.
        files: What it was made from; their checksums are written down.
        data: What it was trained on, as far as known.
        note: Where it comes from.

    Raises:
        PoseZooError: The terms are not named.
    """
    if not licence.strip():
        raise PoseZooError(
            "name the authors' terms for these weights: --licence TEXT, as their repository states them."
        )
    return {
        "name": name,
        "licence": licence.strip(),
        "data": data,
        "recipe": "-",
        "command": shlex.join(["posezoo", *sys.argv[1:]]),
        "trained": "by its authors",
        "note": note,
        "limits": "Not studied by posezoo.",
        "converted_from": {file.name: sha256(file) for file in files},
        "metrics": [],
        **describe_estimator(estimator),
    }


def save_converted(estimator: PoseEstimator, out: Path, dtype: StoredType, card: dict[str, Any]) -> None:
    """Write the folder: weights, configuration, card."""
    save_model(estimator, out, dtype, card=card)
    replace_file(out / CARD_FILE, lambda path: path.write_text(model_card(out), encoding="utf-8"))
