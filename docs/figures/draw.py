"""Draws the architecture figures of the method pages: `python docs/figures/draw.py` writes one SVG a method."""

import sys
from pathlib import Path
from xml.sax.saxutils import escape

FOLDER = Path(__file__).resolve().parent
FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
INK, SOFT = "#1f2933", "#5f6c7b"
# What a box is, told by its colour: (fill, line)
KINDS = {
    "data": ("#e8eef4", "#8aa0b6"),  # what goes in and comes out
    "learned": ("#dbeafe", "#4f86d9"),  # layers with weights
    "maps": ("#fde8c8", "#d9912f"),  # heatmaps and volumes
    "fixed": ("#e3f4e1", "#5da356"),  # formulas without weights
    "loss": ("#ffffff", "#c2504f"),  # supervision
}
LINE = 15  # px between lines of text


class Figure:
    """An SVG that is written box by box; all coordinates are px, boxes are given by their centre."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.size, self.title = (width, height), title
        self.parts: list[str] = []
        self.boxes: dict[str, tuple[float, float, float, float]] = {}
        self.bottoms: dict[str, float] = {}  # lower end of what is written below a stack

    def box(self, name: str, x: float, y: float, text: str, kind: str, width: float = 118, height: float = 54) -> None:
        """A rounded box; the first line of its text is bold, losses are dashed."""
        fill, line = KINDS[kind]
        dash = ' stroke-dasharray="5 3"' if kind == "loss" else ""
        width = max(width, 7.4 * len(text.split("\n")[0]) + 14)
        corner = f'x="{x - width / 2:g}" y="{y - height / 2:g}" width="{width:g}" height="{height:g}"'
        self.parts.append(f'<rect {corner} rx="7" fill="{fill}" stroke="{line}" stroke-width="1.4"{dash}/>')
        self._lines(x, y, text)
        self.boxes[name] = (x, y, width, height)

    def stack(self, name: str, x: float, y: float, text: str, depth: int = 4, side: float = 46) -> None:
        """A pile of maps, drawn one behind the other, with its text below."""
        fill, line = KINDS["maps"]
        step = 5
        for layer in reversed(range(depth)):
            left, top = x - side / 2 + layer * step - depth, y - side / 2 - layer * step + depth
            square = f'x="{left:g}" y="{top:g}" width="{side:g}" height="{side:g}"'
            self.parts.append(f'<rect {square} rx="2" fill="{fill}" stroke="{line}" stroke-width="1.2"/>')
        spot = f'cx="{x - depth + side * 0.1:g}" cy="{y + depth - side * 0.1:g}"'
        self.parts.append(f'<circle {spot} r="{side / 7:g}" fill="{line}" opacity="0.85"/>')
        lines = len(text.split("\n"))
        self._lines(x, y + side / 2 + depth + 6 + LINE * lines / 2, text)
        self.boxes[name] = (x + depth, y, side + step * depth, side)
        self.bottoms[name] = y + side / 2 + depth + 10 + LINE * lines

    def arrow(self, start: str, end: str, label: str = "", bend: str = "auto") -> None:
        """From box to box; across where they are side by side, down or up where one is below, else with a corner."""
        (x0, y0, w0, h0), (x1, y1, w1, h1) = self.boxes[start], self.boxes[end]
        if bend == "auto":
            bend = "across" if x1 - w1 / 2 > x0 + w0 / 2 else "along"
        if bend == "across":
            points = [(x0 + w0 / 2, y0), (x1 - w1 / 2 - 3, y1)]
            if abs(y0 - y1) > 2:
                middle = (points[0][0] + points[1][0]) / 2
                points[1:1] = [(middle, y0), (middle, y1)]
        elif bend == "rise":  # leaves at the side, arrives from above or below
            end_y = y1 + (h1 / 2 + 3 if y0 > y1 else -h1 / 2 - 3)
            points = [(x0 + w0 / 2, y0), (x1, y0), (x1, end_y)]
        elif bend == "over":  # around what stands between two boxes
            top = y0 - h0 / 2 - 12
            points = [(x0, y0 - h0 / 2), (x0, top), (x1, top), (x1, y1 - h1 / 2 - 3)]
        else:
            down = 1 if y1 > y0 else -1
            begin = self.bottoms.get(start, y0 + h0 / 2) if down > 0 else y0 - h0 / 2
            points = [(x1, begin), (x1, y1 - down * (h1 / 2 + 3))]
        path = "M" + " L".join(f"{x:g} {y:g}" for x, y in points)
        self.parts.append(
            f'<path d="{path}" fill="none" stroke="{INK}" stroke-width="1.4" stroke-linejoin="round" '
            'marker-end="url(#tip)"/>'
        )
        if label:
            (xa, ya), (xb, yb) = points[-2], points[-1]
            self.text((xa + xb) / 2, min(ya, yb) - 5 if ya == yb else (ya + yb) / 2, label)

    def text(
        self, x: float, y: float, words: str, size: float = 11, anchor: str = "middle", bold: bool = False
    ) -> None:
        """A line of small text."""
        weight = ' font-weight="600"' if bold else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" fill="{INK if bold else SOFT}" '
            f'text-anchor="{anchor}"{weight}>{escape(words)}</text>'
        )

    def frame(self, x: float, y: float, width: float, height: float, words: str) -> None:
        """A dotted frame around what belongs together, its name inside the upper edge."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="9" fill="#fafbfc" '
            f'stroke="{SOFT}" stroke-width="1" stroke-dasharray="2 3"/>'
        )
        self.text(x + 10, y + 15, words, anchor="start")

    def _lines(self, x: float, y: float, text: str) -> None:
        lines = text.split("\n")
        top = y - LINE * (len(lines) - 1) / 2 + 4
        for number, words in enumerate(lines):
            self.text(x, top + number * LINE, words, 12.5 if number == 0 else 11, bold=number == 0)

    def legend(self, *kinds: str) -> None:
        """What the colours mean, along the lower edge."""
        names = {
            "data": "in and out",
            "learned": "learned layers",
            "maps": "heatmaps, volumes",
            "fixed": "formulas without weights",
            "loss": "supervision",
        }
        x, y = 16.0, self.size[1] - 17.0
        for kind in kinds:
            fill, line = KINDS[kind]
            dash = ' stroke-dasharray="3 2"' if kind == "loss" else ""
            self.parts.append(
                f'<rect x="{x:g}" y="{y:g}" width="12" height="10" rx="2" fill="{fill}" stroke="{line}"{dash}/>'
            )
            self.text(x + 18, y + 9, names[kind], anchor="start")
            x += 44 + 6.2 * len(names[kind])

    def svg(self) -> str:
        """The file's content, on a white card so that it reads in a dark theme too."""
        width, height = self.size
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img" font-family="{FONT}">\n<title>{escape(self.title)}</title>\n'
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" '
            f'orient="auto-start-reverse"><path d="M0 0 L8 4 L0 8 z" fill="{INK}"/></marker></defs>\n'
            f'<rect width="{width}" height="{height}" rx="10" fill="#ffffff"/>\n'
        )
        return head + "\n".join(self.parts) + "\n</svg>\n"


def metrabs() -> Figure:
    """Two sets of heatmaps from one convolution, joined by the crop's camera."""
    f = Figure(960, 310, "MeTRAbs: 2D heatmaps and metric volumes from one convolution, joined by least squares")
    f.box("crop", 75, 120, "crop\nS x S px", "data", 92)
    f.box("k", 75, 258, "K of the crop", "data", 110, 36)
    f.box("body", 205, 120, "backbone\nstride 32,\ncentred", "learned", 108, 66)
    f.box("conv", 335, 120, "1 x 1\nconvolution", "learned", 96)
    f.stack("maps", 474, 52, "J heatmaps 8 x 8\nof the crop")
    f.stack("volume", 474, 176, "J volumes 8 x 8 x 8\nof 2.2 m", 5)
    f.box("soft2", 602, 52, "soft-argmax\npx", "fixed", 100, 46)
    f.box("soft3", 602, 176, "soft-argmax\nmm, no origin", "fixed", 100, 46)
    f.box("solve", 734, 120, "reconstruction\nleast squares for the\ntranslation r", "fixed", 140, 66)
    f.box("out", 884, 120, "joints\nmm, absolute", "data", 112)
    for start, end in (("crop", "body"), ("body", "conv"), ("conv", "maps"), ("conv", "volume"), ("maps", "soft2")):
        f.arrow(start, end)
    f.arrow("volume", "soft3")
    f.arrow("soft2", "solve")
    f.arrow("soft3", "solve")
    f.arrow("solve", "out")
    f.arrow("k", "solve", bend="rise")
    f.legend("data", "learned", "maps", "fixed")
    return f


def hemlets() -> Figure:
    """Supervised maps in the middle, from which the volume is made."""
    f = Figure(980, 350, "HEMlets: joint maps and triplets as intermediate supervision of a volumetric network")
    f.box("crop", 58, 130, "crop\n256 px", "data", 76)
    f.box("body", 166, 130, "ResNet-50\nstride 32", "learned", 96)
    f.box("tower1", 306, 62, "3 deconvolutions\n3x3 to 1024", "learned", 132, 46)
    f.box("tower2", 306, 190, "3 deconvolutions\n3x3 to 60", "learned", 132, 46)
    f.stack("maps", 448, 190, "60 maps 64 x 64:\n18 joints,\n14 parts x (-, 0, +)", 5)
    f.box("encoder", 576, 190, "encoder\n3x3 to 256", "learned", 98, 46)
    f.box("tail", 576, 62, "concatenate\n1x1, 1x1", "learned", 104, 46)
    f.stack("volume", 700, 62, "18 volumes\n64 x 64 x 64", 5)
    f.box("soft", 810, 62, "soft-argmax\nx, y, z", "fixed", 98, 46)
    f.box("out", 922, 62, "2.5D pose", "data", 84, 40)
    f.box("depth", 790, 216, "root depth\nbone lengths, RootNet,\na number, or truth", "fixed", 146, 62)
    f.box("mm", 922, 216, "joints\nmm", "data", 76, 44)
    f.box("l2", 448, 308, "L_2D + L_HEM, times alpha", "loss", 118, 32)
    f.box("l3", 810, 142, "L_3D", "loss", 64, 30)
    for start, end in (
        ("crop", "body"), ("body", "tower1"), ("body", "tower2"), ("tower1", "tail"), ("tower2", "maps"),
        ("maps", "encoder"), ("encoder", "tail"), ("tail", "volume"), ("volume", "soft"), ("soft", "out"),
        ("maps", "l2"), ("soft", "l3"), ("depth", "mm"), ("out", "mm"),
    ):  # fmt: skip
        f.arrow(start, end)
    f.legend("data", "learned", "maps", "fixed", "loss")
    return f


def integral() -> Figure:
    """The volumetric baseline."""
    f = Figure(970, 240, "IntegralPose: one volume for each joint, read by soft-argmax")
    f.box("crop", 66, 75, "crop\n256 px", "data", 84)
    f.box("body", 182, 75, "ResNet-50\nstride 32", "learned", 100)
    f.box("tower", 316, 75, "3 deconvolutions\n256 channels", "learned", 132)
    f.box("conv", 446, 75, "1 x 1\nconvolution", "learned", 90)
    f.stack("volume", 550, 75, "J volumes\n64 x 64 x 64, 2 m", 5)
    f.box("soft", 660, 75, "soft-argmax\nx, y, z", "fixed", 98)
    f.box("lift", 792, 75, "back-projection\nwith K", "fixed", 112)
    f.box("out", 910, 75, "joints\nmm", "data", 76)
    f.box("depth", 792, 166, "root depth\nbone lengths, RootNet,\na number, or truth", "fixed", 146, 60)
    for start, end in (("crop", "body"), ("body", "tower"), ("tower", "conv"), ("conv", "volume"), ("volume", "soft")):
        f.arrow(start, end)
    f.arrow("soft", "lift")
    f.arrow("depth", "lift")
    f.arrow("lift", "out")
    f.legend("data", "learned", "maps", "fixed")
    return f


def partaware() -> Figure:
    """One encoder, a decoder of its own for each group; and what a cell is."""
    f = Figure(960, 420, "Part-aware pose: a decoder with searched cells for each group of joints")
    f.box("crop", 62, 120, "crop\n256 px", "data", 80)
    f.box("body", 172, 120, "encoder\nMobileNetV2", "learned", 104)
    groups = (("core", 48), ("mid", 120), ("distal", 192))
    for group, y in groups:
        for number, stride in enumerate((16, 8, 4)):
            name = f"cell, {group}" if number == 0 else "cell"
            f.box(f"{group}{number}", 306 + 108 * number, y, f"{name}\nstride {stride}", "learned", 96, 46)
        f.arrow("body", f"{group}0")
        f.arrow(f"{group}0", f"{group}1")
        f.arrow(f"{group}1", f"{group}2")
    f.stack("volume", 668, 120, "a volume for each\njoint of the group", 5)
    for group, _ in groups:
        f.arrow(f"{group}2", "volume")
    f.box("soft", 786, 120, "soft-argmax\njoints by name", "fixed", 110)
    f.box("out", 900, 120, "2.5D pose\nthen mm", "data", 88)
    f.arrow("crop", "body")
    f.arrow("volume", "soft")
    f.arrow("soft", "out")
    f.frame(150, 244, 660, 136, "a cell (one of many): every node adds two edges, each with an operation of its own")
    for name, x, y in (
        ("x1", 216, 296), ("x2", 216, 346), ("x3", 350, 321), ("x4", 470, 321), ("x5", 590, 321),
    ):  # fmt: skip
        f.box(name, x, y, name, "learned" if name > "x2" else "data", 50, 32)
    f.box("cat", 730, 321, "concatenate", "fixed", 96, 34)
    f.arrow("x1", "x3")
    f.arrow("x2", "x3")
    f.arrow("x2", "x4", bend="rise")
    f.arrow("x3", "x4")
    f.arrow("x3", "x5", bend="over")
    f.arrow("x4", "x5")
    f.arrow("x5", "cat")
    f.text(644, 309, "x3, x4, x5")
    f.legend("data", "learned", "maps", "fixed")
    return f


def rootnet() -> Figure:
    """A distance from the box's size, corrected by what the image says."""
    f = Figure(960, 280, "RootNet: the box's size gives a distance, the image a correction")
    f.box("crop", 72, 90, "crop\n256 px", "data", 88)
    f.box("body", 196, 90, "ResNet-50\nstride 32", "learned", 104)
    f.box("tower", 342, 48, "3 deconvolutions\n1 x 1", "learned", 132, 46)
    f.box("pool", 342, 146, "average, 1 x 1", "learned", 132, 40)
    f.stack("map", 474, 48, "heatmap of the root", 1)
    f.box("soft", 610, 48, "soft-argmax\nx, y", "fixed", 100, 46)
    f.box("gamma", 610, 146, "Z = gamma k", "fixed", 100, 40)
    f.box("k", 342, 212, "k = sqrt(fx fy A_real / A_box)", "fixed", 200, 38)
    f.box("lift", 748, 94, "back-projection\nwith K", "fixed", 116)
    f.box("out", 878, 94, "root\nmm, absolute", "data", 108)
    f.arrow("crop", "body")
    f.arrow("body", "tower")
    f.arrow("body", "pool")
    f.arrow("tower", "map")
    f.arrow("map", "soft")
    f.arrow("pool", "gamma", "gamma")
    f.arrow("k", "gamma", bend="rise")
    f.arrow("soft", "lift")
    f.arrow("gamma", "lift")
    f.arrow("lift", "out")
    f.legend("data", "learned", "maps", "fixed")
    return f


FIGURES = {make.__name__: make for make in (metrabs, hemlets, integral, partaware, rootnet)}


def main() -> int:
    """Write every figure."""
    for name, make in FIGURES.items():
        (FOLDER / f"{name}.svg").write_text(make().svg(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
