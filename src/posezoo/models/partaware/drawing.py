"""Pictures of genotypes, as SVG text: no plotting library needed."""

from html import escape

from posezoo.models.partaware.genotype import INPUTS, Cell, Genotype
from posezoo.models.partaware.operations import RECEPTIVE_FIELDS

_WIDTH, _HEIGHT, _TOP = 460, 250, 34  # px, of one cell and of the title
# By receptive field: the wider, the darker; identities and poolings in grey.
_COLOURS = {1: "#9aa0a6", 3: "#6b7785", 5: "#2a78c2", 9: "#b3261e"}
_ARROW = (
    '<defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
    '<path d="M0 0 L8 4 L0 8 z" fill="context-stroke"/></marker></defs>'
)


def draw_genotype(genotype: Genotype, title: str = "") -> str:
    """All cells of a genotype: a row for each group, a column for each resolution.

    Args:
        genotype: What is drawn.
        title: Written above.

    Returns:
        An SVG document.
    """
    columns = max(len(cells) for cells in genotype.decoders.values())
    width, height = columns * _WIDTH, len(genotype.decoders) * _HEIGHT + _TOP
    drawn = [
        f'<g transform="translate({column * _WIDTH} {row * _HEIGHT + _TOP})">'
        f"{_cell(cell, _caption(genotype, name, column))}</g>"
        for row, (name, cells) in enumerate(genotype.decoders.items())
        for column, cell in enumerate(cells)
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif">',
            _ARROW,
            f'<rect width="{width}" height="{height}" fill="white"/>',
            f'<text x="12" y="22" font-size="15">{escape(title)}</text>',
            *drawn,
            "</svg>\n",
        ]
    )


def _caption(genotype: Genotype, group: str, column: int) -> str:
    size = f", {genotype.sizes[column]} x {genotype.sizes[column]}" if column < len(genotype.sizes) else ""
    return f"{'every group' if group == '*' else group}, cell {column + 1}{size}"


def _cell(cell: Cell, caption: str) -> str:
    """Inputs on the left, nodes from left to right, the output on the right."""
    nodes = len(cell)
    place = {1: (40.0, 90.0), 2: (40.0, 180.0)}
    for number in range(nodes):
        place[INPUTS + 1 + number] = (150.0 + 230.0 * number / max(1, nodes - 1), 70.0 + 65.0 * (number % 3))
    out = (_WIDTH - 22.0, 135.0)
    parts = [f'<text x="12" y="20" font-size="13" font-weight="bold">{escape(caption)}</text>']
    for number, node in enumerate(cell):
        target = place[INPUTS + 1 + number]
        parts += [_edge(place[edge.source], target, edge.op, k) for k, edge in enumerate(node)]
        parts.append(_line(target, out, "#cccccc"))
    parts += [_node(where, f"x{number}") for number, where in place.items()]
    return "".join([*parts, _node(out, f"x{INPUTS + nodes + 1}")])


def _edge(start: tuple[float, float], end: tuple[float, float], op: str, number: int) -> str:
    colour = _COLOURS[RECEPTIVE_FIELDS[op]]
    share = 0.4 + 0.2 * number  # the two labels of a node do not meet
    x, y = (s + share * (e - s) for s, e in zip(start, end, strict=True))
    label = f'<text x="{x:.0f}" y="{y - 4:.0f}" font-size="10" text-anchor="middle" fill="{colour}">{escape(op)}</text>'
    return _line(start, end, colour, arrow=True) + label


def _line(start: tuple[float, float], end: tuple[float, float], colour: str, arrow: bool = False) -> str:
    (x1, y1), (x2, y2) = start, end
    length = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5
    x2, y2 = x2 - 15 * (x2 - x1) / length, y2 - 15 * (y2 - y1) / length  # ends at the rim of the node
    marker = ' marker-end="url(#arrow)"' if arrow else ""
    return (
        f'<line x1="{x1:.0f}" y1="{y1:.0f}" x2="{x2:.0f}" y2="{y2:.0f}" stroke="{colour}" stroke-width="1.6"{marker}/>'
    )


def _node(where: tuple[float, float], name: str) -> str:
    x, y = where
    circle = f'<circle cx="{x:.0f}" cy="{y:.0f}" r="14" fill="#f4f4f4" stroke="#333"/>'
    return f'{circle}<text x="{x:.0f}" y="{y + 4:.0f}" font-size="12" text-anchor="middle">{name}</text>'
