"""Try a claim of the papers on SyntheticPeople: train, score, compare, write JSON, tables and a plot."""

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

# Before any library makes its pool of threads.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}

from benchmarks.claims.budget import Plan, make_plan
from benchmarks.claims.catalogue import CLAIMS
from benchmarks.claims.design import Claim


def main(argv: list[str] | None = None) -> int:
    """Run claims; 2 for a mistake of the user. Stop it at any time: the same command goes on."""
    arguments = _parser().parse_args(argv)
    if arguments.list:
        print("\n".join(f"{claim.name:<12} {claim.title}. {claim.paper}" for claim in CLAIMS.values()))
        return 0
    try:
        claims = [CLAIMS[name] for name in (arguments.claim or CLAIMS)]
        plans = [make_plan(claim, arguments.budget) for claim in claims]
        if arguments.accelerator:
            plans = [replace(p, trainer={**p.trainer, "accelerator": arguments.accelerator}) for p in plans]
    except KeyError as error:
        return _mistake(f"unknown claim {error}: choose from {', '.join(CLAIMS)}.")
    except ValueError as error:
        return _mistake(f"{error}.")
    if arguments.plan:
        print("\n".join(_described(claim, plan) for claim, plan in zip(claims, plans, strict=True)))
        return 0
    for claim, plan in zip(claims, plans, strict=True):
        _try(claim, plan, arguments)
    return 0


def _mistake(sentence: str) -> int:
    print(f"benchmarks.claims: error: {sentence}", file=sys.stderr)
    return 2


def _described(claim: Claim, plan: Plan) -> str:
    search = f", search of {plan.search_epochs} epochs" if any(t.searches for t in claim.trainings) else ""
    count = sum(1 if t.searches else plan.seeds for t in claim.trainings)
    return (
        f"{claim.name}: {count} trainings of {plan.steps} steps{search}, "
        f"{plan.train_length} training and {plan.test_length} test people"
    )


def _try(claim: Claim, plan: Plan, arguments: argparse.Namespace) -> None:
    import torch

    from benchmarks.claims.report import publish, tables
    from benchmarks.claims.results import results
    from benchmarks.claims.run import Run
    from posezoo.callbacks.pose_metrics import write_json

    torch.set_num_threads(1)
    run = Run(claim, plan, arguments.out, arguments.workers)
    print(f"{_described(claim, plan)}; in {run.folder}", file=sys.stderr, flush=True)
    for seed in range(plan.seeds):  # seed by seed: a run that is stopped early leaves whole comparisons
        for training in claim.trainings:
            if not training.searches or seed == 0:
                print(f"{claim.name}: {training.name}, seed {seed} ...", file=sys.stderr, flush=True)
                run.trained(training, seed)
    result = results(run)
    write_json(run.folder / "results.json", result)
    print(tables(result, claim))
    if arguments.publish:
        write_json(arguments.docs / "claims" / f"{claim.name}.json", result)
        publish(result, claim, arguments.docs)


def _parser() -> argparse.ArgumentParser:
    from benchmarks.claims.report import DOCS

    parser = argparse.ArgumentParser(prog="python -m benchmarks.claims", description=__doc__)
    parser.add_argument("claim", nargs="*", help=f"{', '.join(CLAIMS)}; all when left out")
    parser.add_argument("--budget", default="20m", help="CPU time for each claim: 2m, 20m, 2h, ... or gpu-day")
    parser.add_argument("--out", type=Path, default=Path("runs/claims"), help="folder of the runs")
    parser.add_argument("--accelerator", choices=("cpu", "gpu"), help="the plan's when left out; steps stay the same")
    parser.add_argument("--workers", type=int, default=1, help="loader processes of a training")
    parser.add_argument("--publish", action="store_true", help="put results, plot and tables into the documentation")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of the documentation")
    parser.add_argument("--plan", action="store_true", help="say what a budget buys and stop")
    parser.add_argument("--list", action="store_true", help="print the claims and stop")
    return parser


if __name__ == "__main__":
    sys.exit(main())
