"""Tools for maintainers and lecturers: `python -m tools.NAME`; the Makefile names each of them."""

import re
from pathlib import Path

import nbformat

from labkit import files

ROOT = Path(__file__).resolve().parent.parent


def notebooks(root: Path = ROOT) -> list[Path]:
    """The course's notebooks, in order."""
    return sorted((root / "notebooks").glob("[0-9]*.ipynb"))


def read(path: Path) -> nbformat.NotebookNode:
    """One of our notebooks, as nbformat reads it."""
    return nbformat.read(path, as_version=4)


def write(path: Path, content: str | nbformat.NotebookNode) -> None:
    """A notebook or a text into a file, whole or not at all, with the line ends of Unix."""
    text = content if isinstance(content, str) else nbformat.writes(content) + "\n"
    if not path.is_file() or path.read_bytes() != text.encode():
        with files.whole(path) as file:
            file.write(text.encode())


def title(path: Path) -> str:
    """A notebook's title, from its first line."""
    return read(path).cells[0].source.splitlines()[0].lstrip("# ")


def tags(cell) -> set[str]:
    """The tags of a cell."""
    return set(cell.metadata.get("tags", []))


def fill(text: str, name: str, new: str) -> str:
    """The text with `new` on the lines between the markers `<!-- name -->` and `<!-- /name -->`.

    A name may be followed by arguments, which the second marker does not repeat. Raises ValueError
    unless the first marker is there once, with the second one below it and no other in between.
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name.split()[0]} -->"
    between = rf"({re.escape(begin)}\n)(?:(?!.*<!-- ).*\n)*?([ #]*{re.escape(end)})"
    filled, found = re.subn(between, lambda match: f"{match[1]}{new}\n{match[2]}", text)
    if found != 1 or text.count(begin) != 1 or ("" == name.partition(" ")[2]) * text.count(end) > 1:
        raise ValueError(f"the page must have {begin} and {end}, once each")
    return filled


def site_address(repository: str) -> str:
    """Where GitHub Pages or GitLab Pages serve a repository's site; "" for any other server."""
    host, owner, name = repository.rstrip("/").split("/", 4)[2:]
    pages = {"github.com": "github.io", "gitlab.com": "gitlab.io"}.get(host)
    return f"https://{owner}.{pages}/{name}/" if pages else ""
