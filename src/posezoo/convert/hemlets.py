"""`posezoo convert hemlets-official`: the checkpoint of redrock303/HEMlets."""

from pathlib import Path
from typing import Any

from posezoo.convert.common import card_of, save_converted
from posezoo.errors import PoseZooError
from posezoo.models.backbones import read_tensors
from posezoo.models.hemlets import HEMlets, load_official
from posezoo.zoo import StoredType


def convert_hemlets(checkpoint: Path, out: Path, licence: str, dtype: StoredType = "float32") -> HEMlets:
    """Write the released HEMlets network as a folder of weights.

    It keeps the official coordinates (`convention: official`), the flip test and joints of `hemlets18`. The order of
    its 60 maps is not documented, so they must not be read as triplets; joints are unaffected. The distance to the
    camera comes from bone lengths, those of Human3.6M's universal skeleton until it is trained on others.

    Args:
        checkpoint: The authors' .pth file.
        out: Folder to write.
        licence: The authors' terms, in the user's words.
        dtype: How weights are stored.

    Raises:
        PoseZooError: It is not that checkpoint, or cannot be read without running code from it.
    """
    if not checkpoint.is_file():
        raise PoseZooError(f"there is no file at {checkpoint}: give the .pth file of the HEMlets release.")
    state: dict[str, Any] = dict(read_tensors(checkpoint))
    for key in ("state_dict", "model", "network"):
        state = state[key] if isinstance(state.get(key), dict) else state
    estimator = HEMlets(convention="official")
    load_official(estimator, {name: value for name, value in state.items() if hasattr(value, "shape")})
    card = card_of(
        estimator,
        name="hemlets_resnet50.official",
        licence=licence,
        files=[checkpoint],
        data="Human3.6M by the name of the file; its authors do not document the training data",
        note="Converted from the authors' release (redrock303/HEMlets); not trained and not scored by posezoo.",
    )
    save_converted(estimator, out, dtype, card)
    return estimator
