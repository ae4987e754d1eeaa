"""Tables of the documentation, of which each cell is measured by a test."""

import os
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "measured"

WRITING = bool(os.environ.get("WRITE_TABLES"))
"""Whether what is measured is to be written, instead of held against what is written."""

_HEAD = """\
.. This is written by a test: WRITE_TABLES=1 make test TESTS={test}

.. list-table::
   :header-rows: 1
"""


class Table:
    """
    One table, in a file of its own.

    :param test: the file of the test that measures it.
    :param name: of the file.
    :param header: its columns; the first has the titles of the rows.
    """

    def __init__(self, test, name, header):
        self.path = FOLDER / f"{name}.txt"
        self._head = _HEAD.format(test=Path(test).relative_to(FOLDER.parents[1]))
        self.header = header
        self.titles = []
        self.committed = self._read()
        self._measured = {}

    @property
    def columns(self):
        return self.header[1:]

    def hold(self, title, cells):
        """Hold cells that were measured, by their columns, against the file; or keep them, to be written."""
        if WRITING:
            self._measured.setdefault(title, {}).update(cells)
            return
        assert cells == self._committed_of(title, cells), (
            f"{self.path.name} says something else of {title!r}: its head says how to write it anew"
        )

    def hold_rows(self):
        """With what tests hold against each cell, the whole file is what is measured."""
        assert list(self.committed) == self.titles
        assert self.path.read_text() == self.text(self.committed)

    def agrees(self, title, cells):
        """Whether the file says the same."""
        return cells == self._committed_of(title, cells)

    def _committed_of(self, title, columns):
        committed = self.committed.get(title, {})
        return {column: committed.get(column) for column in columns}

    def text(self, rows):
        """The table as reStructuredText."""
        lines = [self._head]
        for cells in [self.header, *([title, *map(rows[title].get, self.columns)] for title in self.titles)]:
            lines += [f"   {' ' if number else '*'} - {cell}" for number, cell in enumerate(cells)]
        return "\n".join(lines) + "\n"

    def write(self):
        """Write what was measured; the rest stays."""
        empty = dict.fromkeys(self.columns, "")
        rows = {
            title: {**empty, **self.committed.get(title, {}), **self._measured.get(title, {})} for title in self.titles
        }
        self.path.write_text(self.text(rows))

    def _read(self):
        rows, cells = {}, []
        for line in self.path.read_text().splitlines() if self.path.exists() else ():
            if line.startswith("   * - "):
                cells = rows.setdefault(line[7:], [])
            elif line.startswith("     - "):
                cells.append(line[7:])
        rows.pop(self.header[0], None)
        return {title: dict(zip(self.columns, cells, strict=False)) for title, cells in rows.items()}


def each_of(tables):
    """For a test of what is written of these tables."""
    unwritten = pytest.mark.skipif(WRITING, reason="the tables are being written")
    return pytest.mark.parametrize("table", [pytest.param(each, id=each.path.stem, marks=unwritten) for each in tables])


def write(tables):
    """Write what was measured of these, where that is wanted."""
    if WRITING:
        for each in tables:
            each.write()
