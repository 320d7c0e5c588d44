"""MuPoTS-3D (Mehta et al., 3DV 2018) and AP_root (Moon et al., ICCV 2019): scores that first match people.

Plain functions on small tensors (joints and ids, never heatmaps), and `MuPoTSMetric`, which gathers these over all
processes, drops duplicates, sorts and computes once. After matching, all errors come from `metrics.functional`.
Joints are those of `skeletons.MUPOTS17`; lengths are mm in the camera frame, pixels those of the original image.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torchmetrics import Metric

from posezoo.geometry import lengths, procrustes
from posezoo.metrics import functional as F
from posezoo.metrics.modular import _WITHOUT_FLOAT64, _flat
from posezoo.skeletons import MUPOTS17

PELVIS = int(MUPOTS17.root or 0)
JOINTS = len(MUPOTS17)

# All but head_top (0), pelvis (14), spine (15) and head (16).
MATCHING_JOINTS = slice(1, 14)
MATCHING_RADIUS = 40.0  # px, on either axis

# (parent, child), outwards from the pelvis; the order of the official MATLAB script, through isarandi/posepile.
RESCALED_BONES = (
    (14, 15), (15, 1), (1, 0), (1, 16), (1, 2), (2, 3), (3, 4), (1, 5), (5, 6), (6, 7),
    (14, 8), (8, 9), (9, 10), (14, 11), (11, 12), (12, 13),
)  # fmt: skip

# Which truth, whether pelvis-aligned, whether with the truth's bone lengths.
VARIANTS = tuple("_".join(v) for v in product(("univ", "nonuniv"), ("rootrel", "nonrootrel"), ("rescale", "norescale")))

# MPJPE is over all 17 joints, the 16 without the pelvis (no free zero when aligned there), or the 14 of PCK and AUC.
_PCK_JOINTS = list(range(14))
_SUBSETS = {
    "mpjpe14": _PCK_JOINTS,
    "mpjpe16": [j for j in range(JOINTS) if j != PELVIS],
    "mpjpe17": list(range(JOINTS)),
}


@dataclass(frozen=True, eq=False)
class People:
    """N people of any images, annotated or predicted, as rows.

    Attributes:
        joints2d: px of the original image; (0, 0) or NaN for a joint that was not found.
        joints3d: mm, camera frame, absolute.
        sequence: Which sequence (1..20); a (sequence, frame) pair names an image.
        frame: Which frame of it.
        index: Identity of the row among its kind. It sets the order inside an image (annotation order, in which
            people are matched), and two rows of one image with one index are the same person seen twice.
        universal: Annotated joints of the height-normalised skeleton (`univ_annot3`); None for predictions.
        score: Confidence of predictions, for AP_root; None where there is none.
    """

    joints2d: Float[Tensor, "people 17 2"]
    joints3d: Float[Tensor, "people 17 3"]
    sequence: Int64[Tensor, "people"]
    frame: Int64[Tensor, "people"]
    index: Int64[Tensor, "people"]
    universal: Float[Tensor, "people 17 3"] | None = None
    score: Float[Tensor, "people"] | None = None

    def take(self, rows: Tensor) -> "People":
        """The given rows."""
        return self._each(lambda value: value[rows])

    def cpu(self) -> "People":
        """On the CPU, where people are matched: thousands of tiny steps."""
        return self._each(Tensor.cpu)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "People":
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: change(value) for name, value in values.items() if value is not None})


@dataclass(frozen=True, eq=False)
class Matches:
    """M matched pairs, in image and annotation order, with what the per-sequence means need.

    Attributes:
        pred, target, universal: Joints [M, 17, 3], mm, camera frame.
        sequence: [M] position of the pair's sequence in `sequences`.
        sequences: Ids of the annotated sequences, ascending.
        annotated: [S] annotated people of each sequence.
    """

    pred: Tensor
    target: Tensor
    universal: Tensor
    sequence: Tensor
    sequences: Tensor
    annotated: Tensor

    @property
    def counts(self) -> Tensor:
        """Matched people of each sequence [S]."""
        return torch.bincount(self.sequence, minlength=len(self.sequences))


def match_people(
    pred: Float[Tensor, "predicted 17 2"], target: Float[Tensor, "annotated 17 2"]
) -> Int64[Tensor, "pairs 2"]:
    """Match the people of one image in 2D: (annotated, predicted) pairs, by annotation order.

    Each annotated person in turn takes the unused prediction with the most joints within 40 px on both axes, the first
    of equals, and none where no joint is. A predicted joint at (0, 0) was not found and is never near.

    Args:
        pred: Predicted joints, px of the original image.
        target: Annotated joints, px of the original image.
    """
    near = (pred[None] - target[:, None]).abs().amax(-1) < MATCHING_RADIUS
    found = (pred != 0).any(-1)
    hits = (near & found)[..., MATCHING_JOINTS].sum(-1)
    pairs = []
    for person, row in enumerate(hits):
        if len(row) and row.max() > 0:
            best = int(row.argmax())  # the first of equals
            pairs.append((person, best))
            hits[:, best] = 0
    return torch.tensor(pairs, dtype=torch.int64).view(-1, 2)


def rescale_bones(
    pred: Float[Tensor, "people 17 3"], target: Float[Tensor, "people 17 3"]
) -> Float[Tensor, "people 17 3"]:
    """Give each predicted bone the target's length, outwards from the predicted pelvis, which stays; mm.

    Directions are kept; a bone of no length, which has none, stays without length.
    """
    joints = list(pred.unbind(1))
    for parent, child in RESCALED_BONES:
        bone = pred[:, child] - pred[:, parent]
        length = lengths(bone)
        factor = lengths(target[:, child] - target[:, parent]) / length.where(length != 0, 1)
        joints[child] = joints[parent] + factor[:, None] * bone
    return torch.stack(joints, 1)


def match_all(predicted: People, annotated: People) -> Matches:
    """Match the people of every annotated image, on the CPU; predictions on other images are not scored.

    Raises:
        ValueError: The annotated people lack the universal skeleton, or a tensor has the wrong shape.
    """
    _check(predicted, "predicted")
    _check(annotated, "annotated")
    if annotated.universal is None:
        raise ValueError("MuPoTS-3D needs the annotated people on the universal skeleton too (univ_annot3).")
    predicted, annotated = _distinct(predicted), _distinct(annotated)
    sequences, position = annotated.sequence.unique(return_inverse=True)
    target_rows, pred_rows = _match_rows(predicted, annotated)
    truth = annotated.take(target_rows)
    assert truth.universal is not None
    return Matches(
        pred=predicted.joints3d[pred_rows],
        target=truth.joints3d,
        universal=truth.universal,
        sequence=position[target_rows],
        sequences=sequences,
        annotated=torch.bincount(position, minlength=len(sequences)),
    )


def mupots_scores(matches: Matches) -> dict[str, Float[Tensor, "sequences_and_mean"]]:
    """Every published variant of 3DPCK, AUC and MPJPE: a value per sequence, and last their mean.

    Keys are `<variant>.<value>`, with the variants of `VARIANTS` and the values `mpjpe14`, `mpjpe16`, `mpjpe17` (mm),
    `pck_matched`, `auc_matched`, `pck_all_anno`, `auc_all_anno` (percent; joints 0..13, below 150 mm, AUC over 0, 5,
    ..., 150 mm). `all_anno` scales by matched / annotated people: a missed person scores 0, a false positive costs
    nothing. A sequence where nobody was matched has NaN matched values, which its mean leaves out, and 0 of all
    annotations. The headline "3DPCK all" is univ_rootrel_rescale.pck_all_anno; absolute, univ_nonrootrel_rescale.
    """
    scores = {}
    for variant in VARIANTS:
        for name, value in _variant_scores(matches, variant).items():
            scores[f"{variant}.{name}"] = value
    return scores


def recall(matches: Matches) -> Float[Tensor, ""]:
    """Share of the annotated people that were matched, 0..1, over all sequences."""
    return matches.counts.sum().to(matches.target) / matches.annotated.sum()


def matched_scores(
    pred: Float[Tensor, "people 17 3"], target: Float[Tensor, "people 17 3"]
) -> dict[str, Float[Tensor, ""]]:
    """Further scores of matched people only, pooled over people and 17 joints, on the metric skeleton.

    As isarandi/posepile lists them for Sarandi et al. (WACV 2023); its AUC and CPS-AUC are continuous. mm and percent.
    """
    relative, absolute = F.root_relative_errors(pred, target, root=PELVIS), F.absolute_errors(pred, target)
    scores = {
        "mpjpe_rootrel17": relative.mean(),
        "pa_mpjpe17": F.absolute_errors(procrustes(pred, target), target).mean(),
        "mpjpe_abs17": absolute.mean(),
    }
    for t in (50, 100, 150):
        scores |= {f"pck{t}": F.pck_scores(relative, t).mean(), f"auc{t}": F.ramp_scores(relative, t).mean()}
    worst = F.worst_errors(relative) if len(pred) else relative
    for t in (100, 150, 200):
        scores |= {f"cps{t}": F.pck_scores(worst, t).mean(), f"cpsauc{t}": F.ramp_scores(worst, t).mean()}
    for t in (150, 300):
        scores |= {f"apck{t}": F.pck_scores(absolute, t).mean(), f"aauc{t}": F.ramp_scores(absolute, t).mean()}
    return scores


def ap_root(predicted: People, annotated: People, threshold: float = 250.0) -> Float[Tensor, ""]:
    """Average precision of absolute root positions, percent (Moon et al., ICCV 2019, AP_25: 250 mm).

    Follows the released evaluator (mks0601/3DMPPE_ROOTNET_RELEASE, MuPoTS_eval.py), oddities included: a prediction
    goes to the nearest annotated root of its image even if that one is taken, then it is a false positive; the area
    is the sum of precision[n + 1] (recall[n + 1] - recall[n]), so the first prediction adds nothing and N perfect
    people score 100 (N - 1) / N. Predictions on images without annotations are skipped.

    Args:
        predicted: People with scores.
        annotated: People.
        threshold: mm, strictly below.

    Raises:
        ValueError: The predictions have no scores.
    """
    if predicted.score is None:
        raise ValueError("AP_root needs a confidence for each predicted person: People(..., score=...).")
    _check(predicted, "predicted")
    _check(annotated, "annotated")
    predicted, annotated = _distinct(predicted), _distinct(annotated)
    assert predicted.score is not None
    hits = _root_hits(predicted, annotated, predicted.score.argsort(descending=True, stable=True), threshold)
    true = torch.tensor(hits, dtype=torch.float64).cumsum(0)
    precision = true / torch.arange(1, len(hits) + 1)
    area = (precision[1:] * true.diff()).sum() / len(annotated.index)
    return 100 * area


def all_scores(predicted: People, annotated: People) -> dict[str, Tensor]:
    """Match, then `mupots_scores` (vectors), `recall` (0..1) and `ap_root` (percent; NaN where a score is missing)."""
    matches = match_all(predicted, annotated)
    missing = predicted.score is None or bool(predicted.score.isnan().any())
    area = matches.target.new_tensor(torch.nan) if missing else ap_root(predicted, annotated)
    return mupots_scores(matches) | {"recall": recall(matches), "ap_root": area}


class MuPoTSMetric(Metric):
    """All of `mupots_scores`, recall and AP_root over all processes; see there.

    Keeps the joints and ids of every person (a few hundred bytes each). Rows may come in any order, from any process
    and more than once.

    Args:
        kwargs: Options of `torchmetrics.Metric`.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = None

    # Flat, so that a process without people gathers as the others do: ids int64, joints and scores float64.
    predicted_keys: list[Tensor]
    predicted_values: list[Tensor]
    annotated_keys: list[Tensor]
    annotated_values: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("predicted", "annotated"):
            self.add_state(f"{name}_keys", [], dist_reduce_fx="cat")
            self.add_state(f"{name}_values", [], dist_reduce_fx="cat")

    def update(self, predicted: People, annotated: People) -> None:
        """Add people; either may have no rows.

        Raises:
            ValueError: Shapes do not fit, or the annotated people lack the universal skeleton.
        """
        _check(predicted, "predicted")
        _check(annotated, "annotated")
        if annotated.universal is None:
            raise ValueError("MuPoTS-3D needs the annotated people on the universal skeleton too (univ_annot3).")
        for name, people in (("predicted", predicted), ("annotated", annotated)):
            keys, values = _pack(people, self._value_dtype)
            getattr(self, f"{name}_keys").append(keys.to(self.device))
            getattr(self, f"{name}_values").append(values.to(self.device))

    def compute(self) -> dict[str, Float[Tensor, ""]]:
        """The means over sequences by the keys of `mupots_scores`, with `recall` (0..1) and `ap_root` (percent).

        AP_root is NaN where a prediction came without a score.
        """
        scores = all_scores(*self.people())
        return {name: value.view(-1)[-1] for name, value in scores.items()}

    def compute_people(self) -> tuple[People, People]:
        """Predicted and annotated people of all processes, on the CPU, with duplicates: a collective call."""
        with self.sync_context(
            dist_sync_fn=self.dist_sync_fn, should_sync=self._to_sync, should_unsync=self._should_unsync
        ):
            return self.people()

    def people(self) -> tuple[People, People]:
        """Those that this process has."""
        return self._people("predicted"), self._people("annotated")

    def _people(self, name: str) -> People:
        keys = _flat(getattr(self, f"{name}_keys"), torch.int64, self.device)
        values = _flat(getattr(self, f"{name}_values"), self._value_dtype, self.device)
        return _unpack(keys.cpu(), values.cpu().double())

    def _sync_dist(self, *args: Any, **kwargs: Any) -> None:
        # torchmetrics gathers float32 from a process without samples, whatever the others hold.
        for name in ("predicted", "annotated"):
            for part, dtype in (("keys", torch.int64), ("values", self._value_dtype)):
                if not len(getattr(self, f"{name}_{part}")):
                    setattr(self, f"{name}_{part}", [torch.empty(0, dtype=dtype, device=self.device)])
        super()._sync_dist(*args, **kwargs)

    @property
    def _value_dtype(self) -> torch.dtype:
        return torch.float32 if self.device.type in _WITHOUT_FLOAT64 else torch.float64


def _variant_scores(matches: Matches, variant: str) -> dict[str, Tensor]:
    """Values per sequence, and last their mean, of one variant."""
    skeleton, root, bones = variant.split("_")
    target = matches.universal if skeleton == "univ" else matches.target
    pred = rescale_bones(matches.pred, target) if bones == "rescale" else matches.pred
    errors = F.aligned_errors(pred, target, None, PELVIS if root == "rootrel" else None)
    first = F.PerJoint(errors.value[:, _PCK_JOINTS], errors.valid[:, _PCK_JOINTS])
    per_joint = {name: errors.value[:, joints] for name, joints in _SUBSETS.items()}
    per_joint |= {"pck_matched": F.pck_scores(first).value, "auc_matched": F.auc_scores(first).value}
    matched = {name: _sequence_means(matches, value) for name, value in per_joint.items()}
    share = matches.counts.to(first.value) / matches.annotated
    everyone = {f"{name}_all_anno": (matched[f"{name}_matched"] * share).nan_to_num(0) for name in ("pck", "auc")}
    return {name: torch.cat([value, value.nanmean()[None]]) for name, value in (matched | everyone).items()}


def _sequence_means(matches: Matches, value: Tensor) -> Tensor:
    """Mean [S] over the pairs and joints [M, J] of each sequence; NaN for one without pairs."""
    sums = value.new_zeros(len(matches.sequences)).index_add(0, matches.sequence, value.mean(1))
    return sums / matches.counts


def _match_rows(predicted: People, annotated: People) -> tuple[Tensor, Tensor]:
    """Rows of the annotated and of the predicted people of all pairs."""
    of_image = _rows_by_image(predicted)
    target_rows, pred_rows = [], []
    for image, rows in _rows_by_image(annotated).items():
        candidates = of_image.get(image, rows[:0])
        pairs = match_people(predicted.joints2d[candidates], annotated.joints2d[rows])
        target_rows.append(rows[pairs[:, 0]])
        pred_rows.append(candidates[pairs[:, 1]])
    empty = torch.zeros(0, dtype=torch.int64)
    return torch.cat([empty, *target_rows]), torch.cat([empty, *pred_rows])


def _root_hits(predicted: People, annotated: People, order: Tensor, threshold: float) -> list[bool]:
    """Whether each prediction on an annotated image, best score first, is the first near its nearest root."""
    of_image = _rows_by_image(annotated)
    images = list(zip(predicted.sequence.tolist(), predicted.frame.tolist(), strict=True))
    taken: set[int] = set()
    hits = []
    for row in order.tolist():
        rows = of_image.get(images[row])
        if rows is None:
            continue
        distance = lengths(annotated.joints3d[rows, PELVIS] - predicted.joints3d[row, PELVIS]).nan_to_num(torch.inf)
        best = int(distance.argmin())
        person = int(rows[best])
        hits.append(bool(distance[best] < threshold) and person not in taken)
        if hits[-1]:
            taken.add(person)
    return hits


def _rows_by_image(people: People) -> dict[tuple[int, int], Tensor]:
    """Row numbers of each (sequence, frame), in row order."""
    rows: dict[tuple[int, int], list[int]] = {}
    for row, image in enumerate(zip(people.sequence.tolist(), people.frame.tolist(), strict=True)):
        rows.setdefault(image, []).append(row)
    return {image: torch.tensor(numbers) for image, numbers in rows.items()}


def _distinct(people: People) -> People:
    """Rows by (sequence, frame, index) on the CPU, the first of duplicates only."""
    people = people.cpu()
    if not len(people.index):
        return people
    keys = torch.stack([people.sequence, people.frame, people.index], 1)
    distinct, place = keys.unique(dim=0, return_inverse=True)
    first = torch.full((len(distinct),), len(keys)).scatter_reduce(0, place, torch.arange(len(keys)), "amin")
    return people.take(first)


def _check(people: People, kind: str) -> None:
    count = len(people.index)
    wanted = {
        "joints2d": (count, JOINTS, 2),
        "joints3d": (count, JOINTS, 3),
        "sequence": (count,),
        "frame": (count,),
        "index": (count,),
        "universal": (count, JOINTS, 3),
        "score": (count,),
    }
    for name, shape in wanted.items():
        value = getattr(people, name)
        if value is not None and tuple(value.shape) != shape:
            raise ValueError(f"{name} of the {kind} people must be {list(shape)}, got {list(value.shape)}.")
        if name in ("sequence", "frame", "index") and value.dtype != torch.int64:
            raise ValueError(f"{name} of the {kind} people must be int64, got {value.dtype}.")


def _pack(people: People, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Flat ids and values; NaN stands for a skeleton or a score that is not there."""
    count = len(people.index)
    keys = torch.stack([people.sequence, people.frame, people.index], 1)
    universal = torch.full_like(people.joints3d, torch.nan) if people.universal is None else people.universal
    score = people.joints3d.new_full((count,), torch.nan) if people.score is None else people.score
    parts = [people.joints2d, people.joints3d, universal, score[:, None]]
    values = torch.cat([part.detach().to(people.joints3d.device, dtype).flatten(1) for part in parts], 1)
    return keys.flatten(), values.flatten()


def _unpack(keys: Tensor, values: Tensor) -> People:
    """People of flat ids and values."""
    sequence, frame, index = keys.view(-1, 3).unbind(1)
    sizes = (JOINTS * 2, JOINTS * 3, JOINTS * 3, 1)
    joints2d, joints3d, universal, score = values.view(len(index), sum(sizes)).split(sizes, 1)
    return People(
        joints2d=joints2d.reshape(-1, JOINTS, 2),
        joints3d=joints3d.reshape(-1, JOINTS, 3),
        sequence=sequence,
        frame=frame,
        index=index,
        universal=universal.reshape(-1, JOINTS, 3),
        score=score[:, 0],
    )
