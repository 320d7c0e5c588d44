"""What a benchmark is: contenders over the same inputs, how wrong each may be, and what is asked of ours."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

OURS, REFERENCE = "posezoo", "reference"
# Every module registers its cases, `module/variant`, when it is imported.
MODULES = (
    "soft_argmax",
    "volumetric_head",
    "reconstruction",
    "pa_mpjpe",
    "root_depth",
    "triplets",
    "transport",
    "large_frames",
    "renderer",
    "train_step",
    "inference",
    "pipeline",
    "start_up",
)


@dataclass(frozen=True)
class Bench:
    """One case, built.

    Attributes:
        calls: Contenders by name; ours is `OURS`, those it is compared with come before it.
        errors: Error of every contender against a float64 oracle.
        tolerance: Most that a contender may be off, in the unit of `errors`; a worse one is not timed.
        items: Things (images, poses) that one call works on.
        base_mb: What memory targets are a share of.
        own_mb: Part of the extra memory that belongs to the caller: gradients of the inputs.
        flops: Multiplications and additions of one call of ours, for its ceiling; None where products do not matter.
        dtype: What ours multiplies in.
    """

    calls: Mapping[str, Callable[[], Any]]
    errors: Callable[[], Mapping[str, float]]
    tolerance: Mapping[str, float]
    items: int = 1
    base_mb: float = 0.0
    own_mb: float = 0.0
    flops: Callable[[], float] | None = None
    dtype: str = "float32"


@dataclass(frozen=True)
class Target:
    """What is asked of ours; set before anything was measured.

    Attributes:
        what: "speed": at least `limit` times `against`. "rate": at least `limit` items per CPU-second. "seconds": at
            most so many for a call. "memory": at most `limit` of the extra memory of `against`. "share": extra memory
            beyond the caller's own is at most `limit` of `Bench.base_mb`. "error": at most `limit`.
        limit: See `what`.
        against: The other contender.
    """

    what: Literal["speed", "rate", "seconds", "memory", "share", "error"]
    limit: float
    against: str = REFERENCE


@dataclass(frozen=True)
class Case:
    """A benchmark by name.

    Attributes:
        name: `hot_spot/variant`.
        make: quick -> Bench; module-level functions only, since fresh processes find them by name.
        targets: None where only the number is of interest.
        unit: Of the errors.
        memory: Measure extra memory.
        most_rounds: For calls of seconds.
        timed: False where only errors are of interest.
        quick_check: Check errors at quick sizes only: the float64 oracle would take minutes.
        apart: Time every contender in a process of its own.
        keep_heap: Those of them that keep freed memory with their process, as `posezoo fit` does.
    """

    name: str
    make: Callable[..., Bench]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    targets: tuple[Target, ...] = ()
    unit: str = ""
    memory: bool = False
    most_rounds: int = 1000
    timed: bool = True
    quick_check: bool = False
    apart: bool = False
    keep_heap: tuple[str, ...] = ()

    def build(self, quick: bool) -> Bench:
        return self.make(quick=quick, **self.arguments)


class Wrong(AssertionError):
    """A contender computes something else than the oracle."""


_CASES: dict[str, Case] = {}


def register(*cases: Case) -> None:
    """Add cases to the ones that `python -m benchmarks` knows."""
    for case in cases:
        _CASES[case.name] = case


def known_cases() -> dict[str, Case]:
    """All cases by name, in the order of the report."""
    for module in MODULES:
        import_module(f"benchmarks.{module}")
    return dict(_CASES)


def find_cases(names: list[str]) -> list[Case]:
    """Cases by name or by hot spot; all of them without any.

    Raises:
        KeyError: Nothing has such a name.
    """
    known = known_cases()
    chosen = {} if names else known
    for name in names:
        found = {key: case for key, case in known.items() if key == name or key.startswith(f"{name}/")}
        if not found:
            raise KeyError(name)
        chosen |= found
    return list(chosen.values())


def checked(case: Case, bench: Bench) -> dict[str, float]:
    """Error of every contender.

    Raises:
        Wrong: One is beyond its tolerance (or NaN).
    """
    errors = dict(bench.errors())
    for name, error in errors.items():
        if not error <= bench.tolerance[name]:
            raise Wrong(f"{case.name}: {name} is off by {error:.3g} {case.unit}, more than {bench.tolerance[name]:g}.")
    return errors


def prepare_call(name: str, contender: str, quick: bool, threads: int = 1) -> Callable[[], Any]:
    """One contender of one case, for the process that measures its memory or its time."""
    import torch

    torch.set_num_threads(threads)
    import_module(f"benchmarks.{name.partition('/')[0]}")
    call = _CASES[name].build(quick).calls[contender]
    getattr(call, "prepare", bool)()  # weights and the optimiser's state are no extra memory
    return call
