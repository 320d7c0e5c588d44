"""What is published: a table and a plot for each claim, and the page docs/claims.md that holds them."""

import re
from pathlib import Path
from typing import Any

from benchmarks.claims.budget import make_plan
from benchmarks.claims.catalogue import CLAIMS
from benchmarks.claims.design import METRICS, Claim

DOCS = Path(__file__).resolve().parents[2] / "docs"
NOTHING = "Not run yet."
BUDGETS = ("2m", "20m", "2h", "8h", "24h", "gpu-day")
COLUMNS = ("mpjpe", "pa_mpjpe", "depth", "abs_mpjpe", "mrpe")


def tables(result: dict[str, Any], claim: Claim) -> str:
    """Markdown of a claim's results: how it was run, means, differences."""
    return "\n".join([*_how(result), "", *_means(result), "", *_differences(result, claim)])


def _how(result: dict[str, Any]) -> list[str]:
    plan, env = result["plan"], result["environment"]
    cpu = sum(result["cpu_seconds"].values())
    device = env["processor"] if str(env["gpu"]).startswith("none") else env["gpu"]
    return [
        f"`{result['command']}`: {plan['seeds']} seeds, {plan['steps']} steps each, {plan['train_length']} training "
        f"and {plan['test_length']} test people, {len(result['cpu_seconds'])} trainings in {cpu / 60:.0f} CPU-minutes "
        f"({device})."
    ]


def _means(result: dict[str, Any]) -> list[str]:
    lines = [
        "| | test | " + " | ".join(METRICS[m] for m in COLUMNS) + " |",
        "|---|---|" + "--:|" * len(COLUMNS),
    ]
    for row in result["scores"]:
        cells = " | ".join(_spread(row.get(metric)) for metric in COLUMNS)
        lines.append(f"| {row['contender']} | {row['test']} | {cells} |")
    return [*lines, "", "mm; mean over the seeds, and in brackets the smallest and the largest."]


def _spread(values: list[float] | None) -> str:
    if not values:
        return "-"
    mean = sum(values) / len(values)
    return f"{mean:.1f}" if len(values) == 1 else f"{mean:.1f} [{min(values):.1f}, {max(values):.1f}]"


def _differences(result: dict[str, Any], claim: Claim) -> list[str]:
    lines = [
        "| difference | test | metric | mm [95 % interval] | % | verdict |",
        "|---|---|---|--:|--:|---|",
    ]
    for row in result["comparisons"]:
        name = f"{row['first']} - {row['second']}"
        test = row["test"] + (f" minus {row['against']}" if row["against"] else "")
        words = [METRICS[row["metric"]], row["joints"].partition("/")[2] or row["joints"]]
        words += [] if row["where"] == "all" else [f"joints {row['where']} the frame"]
        cells = [name, test, ", ".join(filter(None, words)), _interval(row), _percent(row, result), row["verdict"]]
        cells = [f"**{cell}**" if cell else "" for cell in cells] if row["primary"] else cells
        lines.append("| " + " | ".join(cells) + " |")
    primary = [row["verdict"] for row in result["comparisons"] if row["primary"]]
    counted = ", ".join(f"{primary.count(word)} {word}" for word in dict.fromkeys(primary))
    return [
        *lines,
        "",
        f"Below zero, the first is better. Bold: declared beforehand as what the claim stands on ({counted}); the "
        f"intervals are not corrected for their number ({len(result['comparisons'])}).",
    ]


def _interval(row: dict[str, Any]) -> str:
    return f"{row['mean']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}]"


def _percent(row: dict[str, Any], result: dict[str, Any]) -> str:
    """Of the second contender's mean, where the difference is over all joints of one test set."""
    if row["against"] or row["joints"] or row["where"] != "all":
        return ""
    second = next(s for s in result["scores"] if s["contender"] == row["second"] and s["test"] == row["test"])
    values = second[row["metric"]]
    return f"{100 * row['mean'] / (sum(values) / len(values)):+.1f}"


def plot(result: dict[str, Any], claim: Claim, path: Path) -> None:
    """Intervals of all differences; left of them the means along the claim's axis, if it has one. SVG."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows = result["comparisons"]
    style = {"svg.hashsalt": claim.name, "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    with mpl.rc_context(style):
        panels = 2 if claim.axis else 1
        figure, axes = plt.subplots(
            1, panels, figsize=(5 * panels + 3, 1.6 + 0.26 * len(rows)), squeeze=False,
            width_ratios=[1, 1.1] if claim.axis else None,
        )  # fmt: skip
        if claim.axis:
            _curves(axes[0, 0], result, claim)
        _forest(axes[0, -1], rows)
        figure.tight_layout()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def _curves(axis: Any, result: dict[str, Any], claim: Claim) -> None:
    for name in dict.fromkeys(row["contender"] for row in result["scores"]):
        rows = sorted((r for r in result["scores"] if r["contender"] == name), key=lambda r: r["level"])
        levels = [row["level"] for row in rows]
        means = [sum(row["mpjpe"]) / len(row["mpjpe"]) for row in rows]
        low = [mean - min(row["mpjpe"]) for mean, row in zip(means, rows, strict=True)]
        high = [max(row["mpjpe"]) - mean for mean, row in zip(means, rows, strict=True)]
        dashes = "--" if name == "mean pose" else "-"
        axis.errorbar(levels, means, [low, high], marker="o", ms=3, lw=1.2, ls=dashes, capsize=2, label=name)
    axis.set(xlabel=claim.axis, ylabel="MPJPE, mm (bars: smallest and largest seed)")
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False, fontsize=8)


def _forest(axis: Any, rows: list[dict[str, Any]]) -> None:
    for place, row in enumerate(reversed(rows)):
        colour = "#1f6fb2" if row["primary"] else "#8a94a0"
        axis.plot([row["low"], row["high"]], [place, place], color=colour, lw=1.6)
        axis.plot(row["mean"], place, "o", color=colour, ms=4)
    axis.axvline(0, color="#c2504f", lw=0.8)
    axis.set_yticks(range(len(rows)), [row["key"] for row in reversed(rows)], fontsize=6.5)
    axis.set_xlabel("difference, mm; left of the line the first is better")


def plan_table() -> str:
    """Markdown of what budgets buy, as it stands in docs/claims.md."""
    head = f"| budget | people: training, test | {' | '.join(CLAIMS)} |"
    lines = [head, "|---|---|" + "--:|" * len(CLAIMS)]
    for budget in BUDGETS:
        plans = [make_plan(claim, budget) for claim in CLAIMS.values()]
        steps = " | ".join(f"{plan.steps:,}" for plan in plans)
        lines.append(f"| `{budget}` | {plans[0].train_length:,}, {plans[0].test_length:,} | {steps} |")
    return "\n".join(lines)


def publish(result: dict[str, Any], claim: Claim, docs: Path = DOCS) -> None:
    """Put the plot beside the JSON in docs/claims/, and the tables into docs/claims.md."""
    plot(result, claim, docs / "claims" / f"{claim.name}.svg")
    page = docs / "claims.md"
    page.write_text(with_results(page.read_text(encoding="utf-8"), claim, result), encoding="utf-8")


def with_results(page: str, claim: Claim, result: dict[str, Any] | None) -> str:
    """The page with the results of a claim between its two markers."""
    block = NOTHING
    if result is not None:
        block = (
            f"![{claim.title}: differences with their intervals](claims/{claim.name}.svg)\n\n{tables(result, claim)}"
        )
    begin, end = f"<!-- results: {claim.name} -->", "<!-- end of results -->"
    changed, count = re.subn(
        f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: f"{begin}\n\n{block}\n\n{end}", page, flags=re.DOTALL
    )
    if count != 1:
        raise ValueError(f"the page needs '{begin}' and '{end}' once, found {count}")
    return changed
