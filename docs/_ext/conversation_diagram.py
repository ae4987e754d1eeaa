"""
Draws the conversation of extended SOCKS5 from the code's own table of states.

``.. conversation-diagram::`` is an SVG, so building it needs only Sphinx.
``.. conversation-table::`` is the same as a table, for every output format.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from itertools import count, pairwise

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from txsocksx_ext.protocol.socks5 import TRANSITIONS, Role, State

ROW_HEIGHT = 106
BOX_WIDTH, BOX_HEIGHT = 240, 46
END_WIDTH, END_HEIGHT = 74, 26
END_GAP = 78
PASSAGE_WIDTH = 110
"""The width of an arrow in a row that it only passes."""
CELL_WIDTH = BOX_WIDTH + END_GAP + END_WIDTH + 24


def says(state: State) -> str:
    """Return the sender and the message of a state."""
    transition = TRANSITIONS[state]
    return f"{transition.sender.value}: {transition.message.__name__}"


@dataclass(eq=False)
class Cell:
    """
    A place in a row: a state, or (without one) an arrow that passes.

    :ivar ends: the outcomes that end the conversation, with the state they lead to.
    """

    row: int
    state: State | None = None
    ends: list[tuple[str, State]] = field(default_factory=list)
    x: float = 0.0

    @property
    def width(self) -> int:
        """The width of the cell, with the ends beside it."""
        return PASSAGE_WIDTH if self.state is None else CELL_WIDTH

    @property
    def center(self) -> float:
        """The x coordinate of arrows."""
        return self.x + (PASSAGE_WIDTH / 2 if self.state is None else BOX_WIDTH / 2)

    @property
    def top(self) -> float:
        """The y coordinate where arrows arrive."""
        return self.row * ROW_HEIGHT + 4.0

    @property
    def bottom(self) -> float:
        """The y coordinate where arrows leave."""
        return self.top + BOX_HEIGHT


class Layout:
    """
    Places the states in rows, each below all that lead to it.

    A final state with several predecessors is repeated beside each of them,
    because many arrows to one place are hard to follow.
    """

    def __init__(self) -> None:
        outcomes = [
            (state, name, to) for state, transition in TRANSITIONS.items() for name, to in transition.outcomes.items()
        ]
        incoming = [to for _, _, to in outcomes]
        self.beside = {to for to in incoming if to not in TRANSITIONS and incoming.count(to) > 1}
        rows = self._rows()
        self.cells = {state: Cell(row, state) for state, row in rows.items()}
        self.rows: list[list[Cell]] = [[] for _ in range(max(rows.values()) + 1)]
        self.arrows: list[tuple[str, list[Cell]]] = []
        for state in sorted(rows, key=rows.__getitem__):
            self._place(self.cells[state])
        for state, name, to in outcomes:
            self._lead(state, name, to)
        self.width = max(sum(cell.width for cell in row) for row in self.rows)
        self.height = len(self.rows) * ROW_HEIGHT - (ROW_HEIGHT - BOX_HEIGHT) + 8
        for row in self.rows:
            x = (self.width - sum(cell.width for cell in row)) / 2
            for cell in row:
                cell.x = x
                x += cell.width

    def _rows(self) -> dict[State, int]:
        """Return the row of each state: the length of the longest path to it."""
        rows = {next(iter(TRANSITIONS)): 0}
        for _ in State:
            for state, transition in TRANSITIONS.items():
                for to in transition.outcomes.values():
                    if state in rows and to not in self.beside:
                        rows[to] = max(rows.get(to, 0), rows[state] + 1)
        return rows

    def _place(self, cell: Cell) -> None:
        if cell not in self.rows[cell.row]:
            self.rows[cell.row].append(cell)

    def _lead(self, state: State, name: str, to: State) -> None:
        source = self.cells[state]
        if to in self.beside:
            source.ends.append((name, to))
            return
        target = self.cells[to]
        passages = [Cell(row) for row in range(source.row + 1, target.row)]
        for passage in passages:
            self.rows[passage.row].insert(0, passage)
        self.arrows.append((name, [source, *passages, target]))


def _arrow(name: str, cells: list[Cell]) -> str:
    """Draw an arrow from one state to the next, past the rows between them."""
    path = [f"M{cells[0].center:.0f},{cells[0].bottom:.0f}"]
    for before, after in pairwise(cells):
        middle = (before.bottom + after.top) / 2
        path.append(
            f"C{before.center:.0f},{middle:.0f} {after.center:.0f},{middle:.0f} {after.center:.0f},{after.top:.0f}"
        )
        if after.state is None:
            path.append(f"V{after.bottom:.0f}")
    first, second = cells[0], cells[1]
    assert first.state is not None
    # If a state branches, put the label at the far end of the arrow, where there is space.
    branches = len(TRANSITIONS[first.state].outcomes) - len(first.ends) > 1
    x, y = (second.center, second.top - 9) if branches else (first.center, first.bottom + 17)
    # Put it on the side from which the arrow bends away.
    is_left = (second.center < first.center) if branches else (second.center > first.center)
    side = {"x": x - 9, "anchor": "end"} if is_left else {"x": x + 9, "anchor": "start"}
    label = "" if name == "sent" else _text(y=y, text=name, size=12, **side)
    return f'<path class="outcome" d="{" ".join(path)}" fill="none" marker-end="url(#arrow)"/>{label}'


def _text(x: float, y: float, text: str, *, size: int = 13, bold: bool = False, anchor: str = "middle") -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}" text-anchor="{anchor}"{weight}'
        f' fill="currentColor" stroke="none">{escape(text)}</text>'
    )


def _box(cell: Cell) -> list[str]:
    """Draw a state: square corners if the initiator sends, round ones if the responder does."""
    state = cell.state
    assert state is not None
    transition = TRANSITIONS.get(state)
    radius = END_HEIGHT / 2 if transition is None else 14 if transition.sender is Role.RESPONDER else 0
    parts = [
        f'<rect class="state" x="{cell.x:.0f}" y="{cell.top:.0f}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}"'
        f' rx="{radius:.0f}" fill="none"/>'
    ]
    if transition is None:
        parts.append(_text(cell.center, cell.top + 28, state.value, bold=True))
    else:
        parts.append(_text(cell.center, cell.top + 19, state.value, bold=True))
        parts.append(_text(cell.center, cell.top + 37, says(state), size=11))
    for number, (name, to) in zip(count(), cell.ends):
        x, y = cell.x + BOX_WIDTH, cell.top + BOX_HEIGHT / 2 + number * (END_HEIGHT + 6)
        parts.append(
            f'<path class="outcome" d="M{x:.0f},{y:.0f} h{END_GAP - 2}" fill="none" marker-end="url(#arrow)"/>'
            f'<rect x="{x + END_GAP:.0f}" y="{y - END_HEIGHT / 2:.0f}" width="{END_WIDTH}" height="{END_HEIGHT}"'
            f' rx="{END_HEIGHT / 2:.0f}" fill="none" stroke-dasharray="4 3"/>'
        )
        parts.append(_text(x + END_GAP / 2, y - 6, name, size=12))
        parts.append(_text(x + END_GAP + END_WIDTH / 2, y + 5, to.value, size=12))
    return parts


def diagram() -> str:
    """Return the SVG."""
    layout = Layout()
    parts = [part for row in layout.rows for cell in row if cell.state is not None for part in _box(cell)]
    parts += [_arrow(name, cells) for name, cells in layout.arrows]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-2 0 {layout.width + 4} {layout.height}" role="img"'
        ' aria-label="The states of the conversation. The table below says the same."'
        ' style="max-width: 100%; height: auto" stroke="currentColor" stroke-width="1.4" font-family="sans-serif">'
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="7" markerHeight="7"'
        ' orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="currentColor" stroke="none"/></marker></defs>'
        + "".join(parts)
        + "</svg>"
    )


class ConversationDiagram(SphinxDirective):
    """The states of the conversation as a picture."""

    def run(self) -> list[nodes.Node]:
        """Return the diagram for HTML; other formats have only the table."""
        return [nodes.raw("", diagram(), format="html")]


class ConversationTable(SphinxDirective):
    """The states of the conversation as a table."""

    def run(self) -> list[nodes.Node]:
        """Return a row for each outcome of each state."""
        lines = [
            ".. list-table::",
            "   :header-rows: 1",
            "",
            "   * - State",
            "     - Sender and message",
            "     - Outcome",
        ]
        lines.append("     - Next state")
        for state, transition in TRANSITIONS.items():
            for number, (name, to) in enumerate(transition.outcomes.items()):
                lines += [
                    f"   * - {'' if number else state.value}",
                    f"     - {'' if number else says(state)}",
                    f"     - {name}",
                    f"     - {to.value}",
                ]
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app):
    """Register the directives."""
    app.add_directive("conversation-diagram", ConversationDiagram)
    app.add_directive("conversation-table", ConversationTable)
    return {"parallel_read_safe": True}
