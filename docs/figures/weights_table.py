"""Writes the table of released weights in README.md from the catalogue: `python docs/figures/weights_table.py`."""

from pathlib import Path

from posezoo.zoo import Weights, catalogue

README = Path(__file__).resolve().parents[2] / "README.md"
START, END = "<!-- weights: written by docs/figures/weights_table.py -->", "<!-- end of weights -->"
COLUMNS = {
    "MPJPE (mm)": "MPJPE",
    "PA-MPJPE (mm)": "PA-MPJPE",
    "PCK@150 (%)": "PCK@150",
    "absolute MPJPE (mm)": "absolute MPJPE",
}


def row(weights: Weights) -> str:
    """One line: the first measurement is that on the held-out rendered people."""
    values = weights.metrics[0].values if weights.metrics else {}
    scores = [f"{values[title]:.0f}{' %' if '%' in title else ' mm'}" if title in values else "-" for title in COLUMNS]
    size = f"{weights.parameters / 1e6:.2f} M, {weights.size / 2**20:.1f} MiB"
    return " | ".join(["", f"`{weights.name}`", size, weights.skeleton, *scores, weights.licence, ""]).strip()


def table() -> str:
    """The Markdown table, with how its numbers were made."""
    entries = list(catalogue().values())
    head = " | ".join(["", "weights", "size", "skeleton", *COLUMNS.values(), "licence", ""]).strip()
    lines = [head, "|" + "---|" * (len(COLUMNS) + 4), *(row(entry) for entry in entries)]
    scored = sorted({entry.metrics[0].on for entry in entries if entry.metrics})
    on = "; ".join(scored)
    return "\n".join([*lines, "", f"Each on the joints of its own skeleton. Scored on: {on}."])


def updated(text: str) -> str:
    """README with the table between its two marks renewed."""
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    README.write_text(updated(README.read_text(encoding="utf-8")), encoding="utf-8")
