"""What a claim is made of: trainings, contenders, test sets and the comparisons that are declared before any run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Metric = Literal["mpjpe", "pa_mpjpe", "abs_mpjpe", "mrpe", "depth"]
Where = Literal["all", "inside", "outside"]

METRICS: dict[str, str] = {
    "mpjpe": "MPJPE",
    "pa_mpjpe": "PA-MPJPE",
    "abs_mpjpe": "absolute MPJPE",
    "mrpe": "MRPE (root)",
    "depth": "depth error, root-relative",
}


@dataclass(frozen=True)
class Training:
    """A network that is trained once per seed.

    Attributes:
        name: Folder of its runs.
        recipe: Name of the recipe it starts from.
        cost: CPU-seconds of a step, as measured; budgets are divided by it.
        overlays: Recipes laid over it (ablations).
        model, data: Arguments that are changed. "{seed}" and "{search}" in them stand for the seed and for the run
            folder of the search.
        shares: Arguments of the model that are a share of the steps.
        searches: It is the architecture search, made once, with seed 0; recipes that name "{search}" wait for it.
    """

    name: str
    recipe: str
    cost: float
    overlays: tuple[str, ...] = ()
    model: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)
    searches: bool = False


@dataclass(frozen=True)
class TestSet:
    """A test split: SyntheticPeople, generator version 1, split "test", with some dials turned.

    Attributes:
        name: In tables.
        data: Arguments of ClaimPeople.
        level: Where it stands on the claim's axis, if it has one.
    """

    __test__ = False  # in spite of its name, pytest has nothing to collect here

    name: str
    data: Mapping[str, Any] = field(default_factory=dict)
    level: float | None = None


@dataclass(frozen=True)
class Contender:
    """A row of the tables: a training, and how its checkpoint is read.

    Attributes:
        name: In tables.
        training: Name of the training.
        settings: Arguments of the model that differ in the test.
        tests: Names of the test sets it is scored on; all when empty.
    """

    name: str
    training: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    tests: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """A paired difference `first` - `second`, in mm: below zero where the first is better.

    Attributes:
        first, second: Contenders.
        test: Test set of both.
        metric: Of each person.
        joints: Joints that count: names, or one of the skeleton's groups as "preset/group"; all when empty.
        where: Only joints inside or outside the frame.
        against: A test set whose difference is subtracted: how much the gap grows.
        primary: The claim stands or falls with it; the others are for understanding.
        says: What the paper would have: "below" or "equal" to zero.
    """

    first: str
    second: str
    test: str
    metric: Metric = "mpjpe"
    joints: str = ""
    where: Where = "all"
    against: str = ""
    primary: bool = False
    says: Literal["below", "equal"] = "below"

    @property
    def key(self) -> str:
        """Unique within its claim."""
        extra = [self.joints, "" if self.where == "all" else f"{self.where} joints"]
        grown = f" minus {self.against}" if self.against else ""
        words = [f"{self.first} - {self.second}", f"{self.test}{grown}", METRICS[self.metric], *filter(None, extra)]
        return ", ".join(words)


@dataclass(frozen=True)
class Claim:
    """A claim of a paper, and how it is tried.

    Attributes:
        name: On the command line.
        title: In the documentation.
        paper: What the paper says, in our words.
        trainings, contenders, tests, comparisons: See there. The first contender's training also gives the mean pose.
        axis: What `TestSet.level` is; empty when the test sets have no order.
    """

    name: str
    title: str
    paper: str
    trainings: tuple[Training, ...]
    contenders: tuple[Contender, ...]
    tests: tuple[TestSet, ...]
    comparisons: tuple[Comparison, ...]
    axis: str = ""

    def training(self, name: str) -> Training:
        """A training by its name."""
        return next(t for t in self.trainings if t.name == name)

    def scored(self) -> list[tuple[Contender, TestSet]]:
        """Every contender with every test set it is scored on."""
        return [(c, t) for c in self.contenders for t in self.tests if not c.tests or t.name in c.tests]
