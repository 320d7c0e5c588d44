"""The table that validation and test print: what was scored, how, and what it came to."""

import math
from typing import Any

from posezoo.metrics.titles import METRICS


def print_table(stage: str, result: dict[str, Any], actions: bool = False) -> None:
    """The model beside the mean pose, published protocols first, and below it what the numbers mean.

    Args:
        stage: "val" or "test".
        result: What `PoseMetrics` writes into metrics.json.
        actions: Show MPJPE of every action; groups of a published protocol are always shown.
    """
    from rich.console import Console
    from rich.table import Table

    console = Console()
    published: dict[str, Any] = result["protocols"]
    baseline = result["mean_pose"] or {}
    table = Table(title=f"{stage}, n={result['samples']}")
    for column in ("metric", "model", *(["mean pose"] if baseline else [])):
        table.add_column(column, justify="left" if column == "metric" else "right")

    def add(title: str, value: float | None, beside: float | None) -> None:
        table.add_row(title.replace("[", r"\["), format_score(value), *([format_score(beside)] if baseline else []))

    for name, found in published.items():
        table.add_row(f"[bold]{name}[/bold]")
        for measure, value in found["metrics"].items():
            add(f"  {found['titles'][measure]}", value, (found["mean_pose"] or {}).get(measure))
        table.add_section()
    if published:
        table.add_row("[bold]all joints, over frames[/bold]")
    for name, value in result["metrics"].items():
        title, unit, _ = METRICS[name]
        add(f"{'  ' * bool(published)}{title} [{unit}]", value, baseline.get(name))
    if actions:
        table.add_section()
        for action, value in result["mpjpe_per_action"].items():
            add(f"  MPJPE {action} [{METRICS['mpjpe'][1]}]", value, None)
    console.print(table)
    if any(found["groups"] for found in published.values()):
        console.print(_groups(published))
    for line in _meaning(result):  # whole lines, however wide the terminal is: they are copied into papers
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def _groups(published: dict[str, Any]) -> Any:
    """Every action, activity or sequence, a column for each measure."""
    from rich.table import Table

    columns = {
        f"{name}\n{found['titles'][measure]}": groups
        for name, found in published.items()
        for measure, groups in found["groups"].items()
    }
    table = Table("", *(title.replace("[", r"\[") for title in columns))
    for column in table.columns[1:]:
        column.justify = "right"
    for group in dict.fromkeys(group for groups in columns.values() for group in groups):
        table.add_row(group, *(format_score(groups.get(group)) for groups in columns.values()))
    return table


def _meaning(result: dict[str, Any]) -> list[str]:
    """What the numbers depend on, a line for each protocol."""
    published = result["protocols"]
    lines = [found["definition"] for found in published.values()] or [result["protocol"]]
    lines += [f"{name}: {note}" for name, found in published.items() for note in found["notes"]]
    lines.append(f"distance to the camera: {result['root_depth_source']}")
    if result["box"] == "pelvis_2000mm":
        lines.append("boxes use the true root depth (pelvis_2000mm)")
    return lines


def format_score(value: float | None) -> str:
    """One decimal; three below 1, for the scores that run from 0 to 1. A dash for none and NaN."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.3f}" if 0 < abs(value) < 1 else f"{value:.1f}"
