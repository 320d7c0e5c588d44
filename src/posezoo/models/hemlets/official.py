"""Weights of the authors' release (redrock303/HEMlets) in our network.

The release fixes neither the order of its 60 maps nor its list of parts, so loaded maps must not be read as triplets;
joints are unaffected.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from posezoo.errors import PoseZooError

if TYPE_CHECKING:
    from posezoo.models.hemlets.estimator import HEMlets

# Official prefix -> ours; the longer ones of a pair come first.
_PREFIXES = (
    ("backbone.", "backbone.body."),
    ("conv_feature.conv_body.", "feature_branch.tower."),
    ("conv_feature.conv_tail.", "feature_branch.conv."),
    ("conv_FBI.conv_body.", "map_branch.tower."),
    ("conv_FBI.conv_tail.", "map_branch.conv."),
    ("FBI_encoder.", "encoder."),
    ("conv_tail.", "tail."),
)
_CONSTANTS = ("volume_reg.",)  # the grid of the soft-argmax, no weight


def from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of an official state dict under the names of `HEMletsNetwork`; a `module.` in front is dropped.

    Raises:
        PoseZooError: A name that the release does not have.
    """
    renamed = {}
    for name, tensor in state.items():
        bare = name.removeprefix("module.")
        if bare.startswith(_CONSTANTS):
            continue
        for official, ours in _PREFIXES:
            if bare.startswith(official):
                renamed[ours + bare.removeprefix(official)] = tensor
                break
        else:
            raise PoseZooError(f"These are not weights of the HEMlets release: it has no tensor '{name}'.")
    return renamed


def load_official(estimator: "HEMlets", state: Mapping[str, Tensor]) -> None:
    """Load official weights into an estimator of the released architecture, in place.

    Args:
        estimator: `HEMlets` with `convention="official"` and the default sizes.
        state: The released state dict.

    Raises:
        PoseZooError: The estimator reads clean coordinates, or the tensors do not fit it.
    """
    if estimator.convention.name != "official":
        raise PoseZooError(
            "The released HEMlets weights speak the official coordinates (cells at i / 63): "
            "set --model.convention official."
        )
    renamed, wanted = from_official(state), estimator.network.state_dict()
    wrong = [k for k in wanted if k not in renamed or renamed[k].shape != wanted[k].shape]
    wrong += [k for k in renamed if k not in wanted]
    if wrong:
        raise PoseZooError(
            f"The released HEMlets weights do not fit: {len(wrong)} tensors are missing or have another shape (first: "
            f"{wrong[0]}); they need backbone resnet50, skeleton hemlets18 and the default sizes."
        )
    estimator.network.load_state_dict(renamed)
