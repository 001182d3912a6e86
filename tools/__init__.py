"""Tools for maintainers and lecturers: `python -m tools.NAME`; the Makefile names each of them."""

import re
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent


def notebooks(root: Path = ROOT) -> list[Path]:
    """The course's notebooks, in order."""
    return sorted((root / "notebooks").glob("[0-9]*.ipynb"))


def read(path: Path) -> nbformat.NotebookNode:
    """One of our notebooks, as nbformat reads it."""
    return nbformat.read(path, as_version=4)


def title(path: Path) -> str:
    """A notebook's title, from its first line."""
    return read(path).cells[0].source.splitlines()[0].lstrip("# ")


def tags(cell) -> set[str]:
    """The tags of a cell."""
    return set(cell.metadata.get("tags", []))


def fill(text: str, name: str, new: str) -> str:
    """The text with `new` between `<!-- name -->` and `<!-- /name -->`.

    Raises ValueError unless each marker is there exactly once.
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    pattern = re.compile(rf"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    text, found = pattern.subn(lambda _: f"{begin}\n{new}\n{end}", text)
    if found != 1 or text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"the page must have {begin} and {end}, once each")
    return text
