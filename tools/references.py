"""The references page: every work that a notebook cites, once, with the notebooks that cite it.

`tools/stamp.py` calls `write`. A work is a list item below a notebook's heading "References" that
leads out of the book, or nowhere; works are the same when their links are.
"""

import re
import unicodedata
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
PAGE = "pages/references.md"
LIST = re.compile(r"<!-- references -->.*<!-- /references -->", re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
INITIALS = re.compile(r"(?:[A-Z]\.[ -]?)+")


def page(text: str, root: Path = ROOT) -> str:
    """The page's text with today's list; ValueError where the markers are missing."""
    lines = [
        f"- {words} — {', '.join(f'[{name[:2]}]({name}.ipynb)' for name in names)}"
        for words, names in cited(root)
    ]
    new = "\n".join(["<!-- references -->", *lines, "<!-- /references -->"])
    text, found = LIST.subn(lambda _: new, text)
    if found != 1:
        raise ValueError(f"{PAGE} must have <!-- references --> and <!-- /references -->, once")
    return text


def write(root: Path = ROOT) -> None:
    file = root / PAGE
    file.write_text(page(file.read_text("utf-8"), root), "utf-8")


def cited(root: Path = ROOT) -> list[tuple[str, list[str]]]:
    """(work, names of the notebooks that cite it), sorted by the first author's surname."""
    works: dict[str, tuple[str, list[str]]] = {}
    for path in sorted((root / "notebooks").glob("[0-9]*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type != "markdown" or "## References" not in cell.source:
                continue
            for item in re.findall(r"(?m)^- (.+)$", cell.source.split("## References")[1]):
                link = (LINK.findall(item) or [item])[-1]
                if link.startswith("https://") or link == item:
                    names = works.setdefault(link, (item.rstrip("."), []))[1]
                    names += [path.stem] if path.stem not in names else []
    return sorted(works.values(), key=lambda work: _surname(work[0]))


def _surname(work: str) -> str:
    """What to sort by: the first author's surname, or the first words where there is no author."""
    first = work.split(",")[0].removesuffix(" et al.")
    name = INITIALS.sub("", first) if INITIALS.match(first) else work
    plain = unicodedata.normalize("NFKD", name.strip("* "))  # ö sorts as o
    return "".join(c for c in plain if not unicodedata.combining(c)).casefold()
