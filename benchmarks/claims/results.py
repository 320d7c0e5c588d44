"""From the errors of every person to tables of means and to paired differences with their verdicts."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.claims.design import Comparison, Metric, Where
from benchmarks.claims.run import MEAN_POSE, Run, Scores, plan_as_dict, spent
from benchmarks.claims.statistics import Interval, paired_interval
from benchmarks.core import environment
from posezoo.data.synthetic.streams import GENERATOR_VERSION
from posezoo.skeletons import SYNTHETIC25

SCHEMA = "posezoo-claims/1"


def person_errors(scores: Scores, metric: Metric, joints: str = "", where: Where = "all") -> NDArray[np.floating[Any]]:
    """Error of each person [N], mm: the mean over the joints that count, NaN where none does."""
    values = scores["abs_mpjpe" if metric == "mrpe" else metric].astype(float)
    names = [str(name) for name in scores["joints"]]
    wanted = {"pelvis"} if metric == "mrpe" else set(chosen_joints(joints, names))
    counts = np.isfinite(values) & np.array([name in wanted for name in names])
    if where != "all":
        counts &= scores["outside"] == (where == "outside")
    total, number = np.where(counts, values, 0.0).sum(1), counts.sum(1)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def chosen_joints(words: str, names: list[str]) -> list[str]:
    """Joints by name, or a group such as "g3_dof/distal"; all when empty."""
    if not words:
        return names
    if "/" in words:
        preset, _, group = words.partition("/")
        members = {SYNTHETIC25.joints[index] for index in SYNTHETIC25.groups[preset][group]}
        members |= {"thorax"} if group in ("core", "trunk") else set()
        return [name for name in names if name in members]
    return words.split()


@dataclass(frozen=True)
class Verdict:
    """What became of a comparison.

    Attributes:
        comparison: What was compared.
        interval: Of first - second, mm.
        word: "supported", "contradicted", "null result" or "not learned".
    """

    comparison: Comparison
    interval: Interval
    word: str


def difference(run: Run, comparison: Comparison, test: str) -> NDArray[np.floating[Any]]:
    """first - second for every seed and person [S, N], mm, on one test set."""
    rows = []
    for seed in range(run.plan.seeds):
        first = _one(run, comparison.first, test, seed, comparison)
        rows.append(first - _one(run, comparison.second, test, seed, comparison))
    return np.stack(rows)


def _one(run: Run, name: str, test: str, seed: int, comparison: Comparison) -> NDArray[np.floating[Any]]:
    contender = next(c for c in run.claim.contenders if c.name == name)
    test_set = next(t for t in run.claim.tests if t.name == test)
    scores = run.scores(contender, test_set, seed)
    return person_errors(scores, comparison.metric, comparison.joints, comparison.where)


def judge(run: Run, comparison: Comparison) -> Verdict:
    """The paired difference of a comparison, and what it says about the claim."""
    values = difference(run, comparison, comparison.test)
    if comparison.against:
        values = values - difference(run, comparison, comparison.against)
    interval = paired_interval(values)
    if not _learned(run, comparison):
        return Verdict(comparison, interval, "not learned")
    return Verdict(comparison, interval, word(interval, comparison.says))


def word(interval: Interval, says: str) -> str:
    """One word on a claim that a difference is below zero, or none at all."""
    if says == "equal":
        return "contradicted" if interval.excludes_zero else "no difference found"
    if interval.high < 0:
        return "supported"
    return "contradicted" if interval.low > 0 else "null result"


def _learned(run: Run, comparison: Comparison) -> bool:
    """Whether both contenders beat the mean pose on the test set: a network that does not shows nothing."""
    test_set = next(t for t in run.claim.tests if t.name == comparison.test)
    baseline = np.nanmean(person_errors(run.mean_pose(test_set), "mpjpe"))
    pair = [c for c in run.claim.contenders if c.name in (comparison.first, comparison.second)]
    means = [mean_error(run.scores(c, test_set, s), "mpjpe") for c in pair for s in range(run.plan.seeds)]
    return bool(max(means) < baseline)


def mean_error(scores: Scores, metric: Metric) -> float:
    """Mean over people, mm."""
    return float(np.nanmean(person_errors(scores, metric)))


def results(run: Run) -> dict[str, Any]:
    """Everything about a finished claim, for JSON."""
    rows = [
        {
            "contender": contender.name,
            "test": test.name,
            "level": test.level,
            **{m: [mean_error(run.scores(contender, test, s), m) for s in range(run.plan.seeds)] for m in _SHOWN},
        }
        for contender, test in run.claim.scored()
    ]
    baseline = [
        {"contender": MEAN_POSE, "test": t.name, "level": t.level}
        | {m: [mean_error(run.mean_pose(t), m)] for m in ("mpjpe", "pa_mpjpe", "depth")}
        for t in run.claim.tests
    ]
    verdicts = [judge(run, comparison) for comparison in run.claim.comparisons]
    return {
        "schema": SCHEMA,
        "claim": run.claim.name,
        "command": f"python -m benchmarks.claims {run.claim.name} --budget {run.plan.budget}",
        "generator_version": GENERATOR_VERSION,
        "plan": plan_as_dict(run.plan),
        "environment": environment(),
        "cpu_seconds": spent(run),
        "scores": rows + baseline,
        "comparisons": [
            {**asdict(v.comparison), "key": v.comparison.key, **asdict(v.interval), "verdict": v.word} for v in verdicts
        ],
    }


_SHOWN: tuple[Metric, ...] = ("mpjpe", "pa_mpjpe", "depth", "abs_mpjpe", "mrpe")
