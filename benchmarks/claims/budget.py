"""From a budget to a plan: steps, people and networks. The same budget is the same plan on every machine."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.claims.design import Claim, Training

SEEDS = 3
UNITS = {"s": 1, "m": 60, "h": 3600}
START_UP = 2.0  # CPU-seconds of a training before its first step: reading the recipe, building loaders
RENDERED = 160.0  # people per CPU-second
SCORED = 0.5  # scoring a person costs this share of a training step's share of it; two passes with a flip test
BATCH = 32
# (largest budget in seconds, training people, test people)
LADDER = ((150.0, 1_000, 256), (1_800.0, 4_000, 1_000), (14_400.0, 12_000, 2_000), (float("inf"), 40_000, 5_000))
# (budgets below so many seconds, epochs of the search, its people)
SEARCHES = ((60.0, 2, 128), (600.0, 2, 256), (3_600.0, 4, 1_600), (21_600.0, 8, 3_200), (float("inf"), 10, 8_000))
LEAST_STEPS = 2


@dataclass(frozen=True)
class Plan:
    """What a budget buys.

    Attributes:
        budget: As it was asked for.
        steps: Of every training but the search.
        search_epochs, search_people: Of the architecture search.
        train_length, test_length: People; the first ones of the fixed splits.
        seeds: Trainings of each kind.
        model, trainer, data: Arguments that differ from the demo recipes.
        recipes: Arguments of the model that differ for one recipe.
    """

    budget: str
    steps: int
    search_epochs: int
    search_people: int
    train_length: int
    test_length: int
    seeds: int = SEEDS
    model: Mapping[str, Any] = field(default_factory=dict)
    trainer: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


# The scale for a GPU: 128 px, ResNet-18, the fixed splits whole. Steps are an estimate: we have had no GPU.
GPU = Plan(
    budget="gpu-day",
    steps=30_000,
    search_epochs=30,
    search_people=20_000,
    train_length=200_000,
    test_length=5_000,
    model={"backbone": "resnet18", "image_size": 128, "stride": 16},
    trainer={"accelerator": "gpu", "precision": "bf16-mixed"},
    data={"batch_size": 64, "frame_size": 192},
    recipes={
        "partaware/demo_synthetic": {"max_gmacs": 2.0, "widths": [128, 128], "output_stride": 4},
        "partaware/demo_search_synthetic": {"widths": [64, 64], "output_stride": 4},
    },
)


def make_plan(claim: Claim, budget: str) -> Plan:
    """The plan of a claim for a budget.

    Args:
        claim: What is tried.
        budget: CPU time for all of it, such as 90s, 20m or 8h; or gpu-day.

    Raises:
        ValueError: Not a budget; the message says what is.
    """
    if budget == GPU.budget:
        return GPU
    seconds = parse_seconds(budget)
    train, test = next((train, test) for most, train, test in LADDER if seconds <= most)
    train, test = (train, test) if seconds >= 60 else (64, 32)
    epochs, people = _search_size(seconds)
    left = seconds - _fixed_cost(claim, train, test) - _search_cost(claim, epochs, people)
    per_step = SEEDS * sum(t.cost for t in claim.trainings if not t.searches)
    steps = max(LEAST_STEPS, int(left / per_step))
    return Plan(budget, steps, epochs, people, train, test)


def parse_seconds(budget: str) -> float:
    """Seconds of a budget such as 90s, 20m or 8h.

    Raises:
        ValueError: It is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", budget)
    if not match or float(match[1]) <= 0:
        raise ValueError(f"'{budget}' is no budget: give CPU time such as 2m, 20m or 8h, or gpu-day")
    return float(match[1]) * UNITS[match[2]]


def _search_size(seconds: float) -> tuple[int, int]:
    """Epochs and people of the search: a tenth of the budget or less."""
    return next((epochs, people) for most, epochs, people in SEARCHES if seconds < most)


def _search_cost(claim: Claim, epochs: int, people: int) -> float:
    cost = sum(t.cost for t in claim.trainings if t.searches)
    return cost * epochs * (people // 2 // BATCH) if cost else 0.0


def _fixed_cost(claim: Claim, train: int, test: int) -> float:
    """Rendering, starting and scoring, whatever the number of steps."""
    kinds = {repr(sorted(_people(t).items())) for t in claim.trainings}
    rendering = (len(kinds) * train + len(claim.tests) * test) / RENDERED
    scoring = sum(claim.training(c.training).cost for c, _ in claim.scored()) / BATCH * SCORED * test
    return rendering + SEEDS * (len(claim.trainings) * START_UP + scoring)


def _people(training: Training) -> dict[str, Any]:
    """The dials that make other pictures, and so another cache."""
    return {key: value for key, value in training.data.items() if key in ("truncation", "stature_sd", "overlay")}
