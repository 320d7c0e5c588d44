"""The five claims. Costs are CPU-seconds of a step of the laptop scale, measured on one core (see docs/claims.md)."""

from benchmarks.claims.design import Claim, Comparison, Contender, TestSet, Training

METRABS, INTEGRAL, HEMLETS = "metrabs/demo_synthetic", "integral/demo_synthetic", "hemlets/demo_synthetic"
PARTAWARE, SEARCH = "partaware/demo_synthetic", "partaware/demo_search_synthetic"
STEP = {METRABS: 0.25, INTEGRAL: 0.29, HEMLETS: 0.40, PARTAWARE: 0.37, SEARCH: 0.90}  # CPU-seconds, loaders included
WARM = {"weak_steps": 0.05, "absolute_start": 0.4}  # MeTRAbs' schedule as shares of the run, as in its demo recipe
H36M = {"skeleton": "h36m17"}


def _metrabs(name: str, **changes: object) -> Training:
    return Training(name, METRABS, STEP[METRABS], shares=WARM, **changes)  # type: ignore[arg-type]


def _integral(name: str, **data: object) -> Training:
    return Training(name, INTEGRAL, STEP[INTEGRAL], model=H36M, data={"weak_share": 0.0} | data)


# ------------------------------------------------------------------------------------------------- 1 truncation

_OUTSIDE = (0.0, 0.1, 0.2, 0.35, 0.5)
_CUT = {"truncation": 0.5}


def _share(level: float) -> str:
    return f"{level:.0%} outside"


def _truncation_gap(metric: str, level: float, **options: object) -> Comparison:
    return Comparison("MeTRAbs", "IntegralPose, true root depth", _share(level), metric, **options)  # type: ignore[arg-type]


TRUNCATION = Claim(
    name="truncation",
    title="Metric-scale heatmaps for truncated people",
    paper="MeTRAbs: volumes in millimetres place joints that lie outside the image; volumes tied to the image cannot, "
    "so the gap grows with the share of joints outside.",
    trainings=(_metrabs("metrabs", data=_CUT), _integral("integral", **_CUT)),
    contenders=(
        Contender("MeTRAbs", "metrabs"),
        Contender("IntegralPose, true root depth", "integral", {"root_depth": "truth"}),
        Contender("IntegralPose, bone lengths", "integral", {"root_depth": "bone_length"}),
    ),
    tests=tuple(TestSet(_share(level), {"outside": level}, level) for level in _OUTSIDE),
    comparisons=(
        *(
            _truncation_gap("mpjpe", level, primary=level > 0, says="equal" if level == 0 else "below")
            for level in _OUTSIDE
        ),
        *(_truncation_gap("mpjpe", level, against=_share(0.0), primary=level == 0.5) for level in _OUTSIDE[1:]),
        *(_truncation_gap("mpjpe", level, where=where) for level in (0.2, 0.5) for where in ("inside", "outside")),
        *(
            Comparison("MeTRAbs", "IntegralPose, bone lengths", _share(level), metric)
            for level in (0.0, 0.2, 0.5)
            for metric in ("mpjpe", "abs_mpjpe")
        ),
    ),
    axis="share of joints outside the frame",
)

# --------------------------------------------------------------------------------------------------- 2 absolute

_SPREADS = (0.0, 65.0, 130.0)  # mm


def _spread(sd: float) -> str:
    return f"statures {sd:.0f} mm"


_USUAL = _spread(65.0)


def _root_gap(first: str, second: str, **options: object) -> tuple[Comparison, ...]:
    metrics = ("abs_mpjpe", "mrpe")
    return tuple(Comparison(first, second, _USUAL, metric, **options) for metric in metrics)  # type: ignore[arg-type]


ABSOLUTE = Claim(
    name="absolute",
    title="Absolute pose",
    paper="MeTRAbs: a loss on the reconstructed absolute pose and full perspective improve it; a network that sees how "
    "large somebody is does not depend on average bone lengths as 2.5D does.",
    trainings=(
        *(_metrabs(f"metrabs-{sd:.0f}", data={"stature_sd": sd}) for sd in _SPREADS),
        _metrabs("no-absolute-loss", model={"absolute_weight": 0.0}, data={"stature_sd": 65.0}),
        _metrabs("weak-perspective", model={"perspective": "weak"}, data={"stature_sd": 65.0}),
        *(_integral(f"integral-{sd:.0f}", stature_sd=sd) for sd in _SPREADS),
    ),
    contenders=(
        *(Contender(f"MeTRAbs, sd {sd:.0f} mm", f"metrabs-{sd:.0f}", tests=(_spread(sd),)) for sd in _SPREADS),
        Contender("without absolute loss", "no-absolute-loss", tests=(_USUAL,)),
        Contender("weak perspective", "weak-perspective", tests=(_USUAL,)),
        Contender("weak perspective in the test only", "metrabs-65", {"perspective": "weak"}, (_USUAL,)),
        *(Contender(f"IntegralPose, sd {sd:.0f} mm", f"integral-{sd:.0f}", tests=(_spread(sd),)) for sd in _SPREADS),
    ),
    tests=tuple(TestSet(_spread(sd), {"stature_sd": sd}, sd) for sd in _SPREADS),
    comparisons=(
        *_root_gap("MeTRAbs, sd 65 mm", "without absolute loss", primary=True),
        *_root_gap("MeTRAbs, sd 65 mm", "weak perspective", primary=True),
        *_root_gap("MeTRAbs, sd 65 mm", "weak perspective in the test only"),
        Comparison("MeTRAbs, sd 65 mm", "without absolute loss", _USUAL),
        *(
            Comparison(f"MeTRAbs, sd {sd:.0f} mm", f"IntegralPose, sd {sd:.0f} mm", _spread(sd), metric)  # type: ignore[arg-type]
            for sd in _SPREADS
            for metric in ("abs_mpjpe", "mrpe")
        ),
    ),
    axis="standard deviation of the statures, mm",
)

# ---------------------------------------------------------------------------------------------------- 3 hemlets

_MAPS, _NONE = "ablations/hemlets-joint-maps-only", "ablations/hemlets-volume-only"
_WEAK, _FULL = {"weak_share": 0.95}, {"weak_share": 0.0}


def _hemlets(name: str, data: dict[str, float], *overlays: str) -> Training:
    return Training(name, HEMLETS, STEP[HEMLETS], overlays, data=data)


def _order_gap(first: str, second: str, primary: bool = False) -> tuple[Comparison, ...]:
    return tuple(Comparison(first, second, "people", metric, primary=primary) for metric in ("mpjpe", "depth"))  # type: ignore[arg-type]


HEMLETS_CLAIM = Claim(
    name="hemlets",
    title="Heatmap triplets",
    paper="HEMlets: triplets of relative depth as intermediate supervision improve on joint heatmaps alone and on "
    "none, above all where most labels are 2D with depth order.",
    trainings=(
        _hemlets("full-triplets", _FULL),
        _hemlets("full-maps", _FULL, _MAPS),
        _hemlets("full-none", _FULL, _NONE),
        _hemlets("weak-triplets", _WEAK),
        _hemlets("weak-maps", _WEAK, _MAPS),
        _hemlets("weak-none", _WEAK, _NONE),
        _hemlets("weak-unordered", _WEAK, "ablations/hemlets-no-weak-labels"),
        _hemlets("weak-noisy", _WEAK | {"order_noise": 0.1}),
    ),
    contenders=(
        Contender("100 % 3D: triplets", "full-triplets"),
        Contender("100 % 3D: joint maps", "full-maps"),
        Contender("100 % 3D: no maps", "full-none"),
        Contender("5 % 3D: triplets", "weak-triplets"),
        Contender("5 % 3D: joint maps", "weak-maps"),
        Contender("5 % 3D: no maps", "weak-none"),
        Contender("5 % 3D: triplets, order withheld", "weak-unordered"),
        Contender("5 % 3D: triplets, 10 % of the order wrong", "weak-noisy"),
    ),
    tests=(TestSet("people"),),
    comparisons=(
        *_order_gap("100 % 3D: triplets", "100 % 3D: no maps", primary=True),
        *_order_gap("100 % 3D: triplets", "100 % 3D: joint maps", primary=True),
        *_order_gap("5 % 3D: triplets", "5 % 3D: no maps", primary=True),
        *_order_gap("5 % 3D: triplets", "5 % 3D: joint maps", primary=True),
        *_order_gap("5 % 3D: triplets", "5 % 3D: triplets, order withheld", primary=True),
        *_order_gap("5 % 3D: triplets", "5 % 3D: triplets, 10 % of the order wrong"),
        *_order_gap("5 % 3D: triplets, 10 % of the order wrong", "5 % 3D: triplets, order withheld"),
    ),
)

# -------------------------------------------------------------------------------------------------- 4 partaware

_FOUND = {"genotype": "{search}/genotype.yaml"}
_CONTROLS = ("shared", "permuted", "random")
_PARTS = ("g3_dof/core", "g3_dof/mid", "g3_dof/distal", "g3_anatomy/trunk", "g3_anatomy/arms", "g3_anatomy/legs")

PARTAWARE_CLAIM = Claim(
    name="partaware",
    title="Architectures for parts",
    paper="Part-aware search: decoders searched for each group of joints beat one architecture for all, at equal cost, "
    "most for the joints that move freely.",
    trainings=(
        Training("search", SEARCH, STEP[SEARCH], model={"arch_warmup": 1}, searches=True),
        Training("searched", PARTAWARE, STEP[PARTAWARE], model=_FOUND),
        *(
            Training(
                kind, PARTAWARE, STEP[PARTAWARE], (f"ablations/partaware-{kind}",), _FOUND | {"control_seed": "{seed}"}
            )
            for kind in _CONTROLS
        ),
    ),
    contenders=tuple(Contender(kind, kind) for kind in ("searched", *_CONTROLS)),
    tests=(TestSet("people"),),
    comparisons=(
        *(Comparison("searched", kind, "people", primary=True) for kind in _CONTROLS),
        *(Comparison("searched", kind, "people", joints=part) for kind in _CONTROLS for part in _PARTS),
    ),
)

# --------------------------------------------------------------------------------------------------- 5 striding

_COVERED = {"augmentation": {"occlusion": 0.7}}

STRIDING = Claim(
    name="striding",
    title="Centred striding, occlusion augmentation",
    paper="MeTRAbs: cells that look at the middle of what they stand for, and covering parts of training crops, lower "
    "the error, the second above all for people who are partly hidden.",
    trainings=(
        _metrabs("centred"),
        _metrabs("uncentred", model={"centered_stride": False}),
        _metrabs("occluded-training", data=_COVERED),
    ),
    contenders=(
        Contender("centred", "centred"),
        Contender("uncentred", "uncentred"),
        Contender("centred, occlusion augmentation", "occluded-training"),
    ),
    tests=(TestSet("people"), TestSet("people behind blobs", {"overlay": 1.0})),
    comparisons=(
        Comparison("centred", "uncentred", "people", primary=True),
        Comparison("centred", "uncentred", "people", "abs_mpjpe"),
        Comparison("centred, occlusion augmentation", "centred", "people behind blobs", primary=True),
        Comparison("centred, occlusion augmentation", "centred", "people", says="equal"),
        Comparison("centred, occlusion augmentation", "centred", "people behind blobs", against="people", primary=True),
    ),
)

CLAIMS = {claim.name: claim for claim in (TRUNCATION, ABSOLUTE, HEMLETS_CLAIM, PARTAWARE_CLAIM, STRIDING)}
