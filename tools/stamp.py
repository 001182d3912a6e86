"""Write what must agree everywhere: badges, setup cells, run times, metadata, README's table, the
status page, the references page, the tables of the lecturer's guide.

usage: python tools/stamp.py [ADDRESS]

The repository address comes from _config.yml, run times from labkit/times.toml. With ADDRESS, such
as https://github.com/owner/name, it is first written into _config.yml: do that once, on publishing.
"""

import argparse
import re
import tomllib
import urllib.parse
from pathlib import Path

import nbformat
import yaml

from tools import plan, references, status

ROOT = Path(__file__).resolve().parents[1]
STUDENT = "student"  # the branch of the student edition, with its notebooks at the root
SETUP = """\
# Setup, the same in every notebook: if labkit is missing, as on Colab, it is installed.
from glob import glob
from importlib.util import find_spec

if not find_spec("labkit"):
    source = "git+{url}@v{version}"
    source = max(glob("labkit-*.whl"), default=source)  # a wheel beside the notebook
    %pip install --quiet "{{source}}"
if not find_spec("labkit"):
    raise RuntimeError(
        "pip could not install labkit and says why above. Check the network and run "
        "this cell again; in a clone of the course, run `make lab` instead."
    )
from labkit import session

session.start("{name}")"""
COLAB = (
    "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/github/{slug}/blob/{place}.ipynb)"
)
BINDER = (  # for a repository that Colab cannot open
    "[![Open in Binder](https://mybinder.org/badge_logo.svg)]"
    "(https://mybinder.org/v2/{binder}?urlpath=lab%2Ftree%2F{name}.ipynb)"
)
BADGE_PATTERN = re.compile(r"\[!\[Open in (?:Colab|Binder)\]\([^)]*\)\]\([^)]*\)")
TIME_PATTERN = re.compile(r"\*Run all\* takes [^.]*\.")
# Where pages name the repository: what to find, and what belongs there.
PLACES = (
    (r"git clone \S+\ncd \S+", "git clone {url}\ncd {folder}"),
    (r"labkit-\d[\w.]*-py3", "labkit-{version}-py3"),
    (r"git\+https://[^\s\"@]+(?:@v[\w.]+)?", "git+{url}@v{version}"),
    (
        r"mybinder\.org/v2/\S+?\?urlpath=lab%2Ftree%2F(?:notebooks%2F)?",
        "mybinder.org/v2/{binder}?urlpath=lab%2Ftree%2F",
    ),
    (
        r"git-pull\?repo=[^&\s]+&branch=[^&\s]+&urlpath=lab%2Ftree%2F[^%\s]+%2F(?:notebooks%2F)?",
        "git-pull?repo={quoted}&branch={student}&urlpath=lab%2Ftree%2F{folder}%2F",
    ),
)
# GitHub allows no underscore in an account's name; GitLab and Gitea can be on any host.
ADDRESS_PATTERN = re.compile(
    r"https://(?:github\.com/[A-Za-z0-9-]+/[\w.-]+"
    r"|(?!github\.com/)[\w.-]+(?::\d+)?(?:/\w[\w.-]*){2,})"
)
TABLE_PATTERN = re.compile(r"<!-- table -->.*<!-- /table -->", re.DOTALL)
METADATA = {
    "accelerator": "GPU",
    "colab": {"gpuType": "T4", "provenance": []},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def address() -> tuple[str, str]:
    """Repository address and branch, as _config.yml has them."""
    repository = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))["repository"]
    return repository["url"].rstrip("/"), repository["branch"]


def write_address(url: str) -> None:
    """Put the repository's address into _config.yml; ValueError if it cannot be one."""
    url = url.rstrip("/").removesuffix(".git")
    if not published(url):
        raise ValueError(
            f"{url!r} is neither of the form https://github.com/owner/name nor the https:// "
            "address of a project on GitLab or Gitea"
        )
    config = ROOT / "_config.yml"
    text, found = re.subn(r"(?m)^(  url: ).*$", rf"\g<1>{url}", config.read_text("utf-8"))
    if found != 1:
        raise ValueError(f"_config.yml must have one line '  url: ...', it has {found}")
    config.write_text(text, "utf-8")


def published(url: str) -> bool:
    """Whether the address can exist; that of a copy which nobody published cannot."""
    return bool(ADDRESS_PATTERN.fullmatch(url))


def words() -> dict[str, str]:
    """What the texts above name: the address and its parts, Binder's path to it, the version."""
    url, branch = address()
    slug, quoted = url.split("/", 3)[3], urllib.parse.quote(url, safe="")
    place = f"gh/{slug}" if on_github() else f"git/{quoted}"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return {
        "url": url, "branch": branch, "slug": slug, "folder": slug.split("/")[-1],
        "quoted": quoted, "binder": f"{place}/{STUDENT}", "student": STUDENT,
        "version": project["version"],
    }  # fmt: skip


def on_github() -> bool:
    """Whether the repository is where Colab can open it."""
    return address()[0].startswith("https://github.com/")


def setup(name: str) -> str:
    """The setup cell of one notebook; it installs the version that the notebook was made with."""
    return SETUP.format(name=name, **words())


def stamp_places(text: str) -> str:
    """A page with today's address wherever it names the repository to git, pip or a hub."""
    for pattern, place in PLACES:
        new = place.format(**words())
        text = re.sub(pattern, lambda _, new=new: new, text)
    return text


def badge(name: str, student: bool = False) -> str:
    """The badge that opens a notebook, or its student edition, in Colab.

    Colab opens GitHub only: a notebook from elsewhere gets Binder's, with the student edition.
    """
    place = f"{STUDENT}/{name}" if student else f"{address()[1]}/notebooks/{name}"
    return (COLAB if on_github() else BINDER).format(place=place, name=name, **words())


def times(name: str) -> str:
    entry = tomllib.loads((ROOT / "labkit/times.toml").read_text("utf-8"))[name]
    measured = [entry[kind] for kind in ("cpu", "gpu") if kind in entry]
    return " and ".join(f"{t['seconds']} s on {_article(t['device'])}" for t in measured)


def _article(device: str) -> str:
    return f"a {device}" if device[0].isdigit() else f"an {device}"


def stamp_notebook(notebook, name: str) -> None:
    """Bring one notebook (an nbformat node) in line, in place."""
    head = notebook.cells[0]
    if not BADGE_PATTERN.search(head.source):
        raise ValueError(f"{name}: the first cell has no Colab badge to stamp")
    head.source = BADGE_PATTERN.sub(badge(name), head.source)
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "markdown":
            cell.source = TIME_PATTERN.sub(f"*Run all* takes {times(name)}.", cell.source)
        if "setup" in tags:
            cell.source = setup(name)
        if "solution" in tags and cell.cell_type == "code":
            cell.metadata.tags = sorted({*tags, "hide-input"})
            cell.metadata.cellView = "form"
            cell.metadata.jupyter = {"source_hidden": True}
        if cell.cell_type == "code":
            stamp_alternative_text(cell)
    notebook.metadata = nbformat.from_dict(METADATA)


def stamp_alternative_text(cell) -> None:
    """Tell the website (MyST-NB) the words that belong to the cell's picture."""
    about = [output.get("metadata", {}).get("image/png", {}) for output in cell.outputs]
    words = [entry["alt"] for entry in about if "alt" in entry]
    cell.metadata.pop("mystnb", None)
    if words:
        cell.metadata.mystnb = {"image": {"alt": words[0]}}


def readme_table() -> str:
    rows = ["| Notebook | What you make | *Run all* | |", "|---|---|---|---|"]
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        lines = nbformat.read(path, as_version=4).cells[0].source.splitlines()
        summary = next(line for line in lines[1:] if line and not line.startswith(("[", "!")))
        title = lines[0].lstrip("# ")
        rows.append(
            f"| [{title}](notebooks/{path.name}) | {summary} | {times(path.stem)} "
            f"| {badge(path.stem)} |"
        )
    return "\n".join(rows)


def stamp_readme(text: str) -> str:
    """README with today's table of notebooks and the repository's address."""
    table = f"<!-- table -->\n{readme_table()}\n<!-- /table -->"
    return TABLE_PATTERN.sub(lambda _: table, stamp_places(text))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address", nargs="?", help="https://github.com/owner/name")
    new = parser.parse_args(arguments).address
    if new:
        try:
            write_address(new)
        except ValueError as error:
            parser.error(str(error))
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        stamp_notebook(notebook, path.stem)
        nbformat.write(notebook, path)
    readme = ROOT / "README.md"
    readme.write_text(stamp_readme(readme.read_text("utf-8")), "utf-8")
    status.write(ROOT)
    references.write(ROOT)
    for page in [*(ROOT / "pages").glob("*.md"), ROOT / "notebooks" / "notation.md"]:
        page.write_text(stamp_places(plan.stamp_guide(page.read_text("utf-8"), ROOT)), "utf-8")


if __name__ == "__main__":
    main()
