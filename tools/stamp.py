"""Write what must agree everywhere: in the notebooks badges, setup cells, run times, headings of
exercises and metadata; on the pages whatever is between markers `<!-- name -->`.

usage: python -m tools.stamp [ADDRESS]

The repository address comes from _config.yml, run times from labkit/times.toml, an exercise's title
from its check, published results from tools/literature.toml, all else from the notebooks. With
ADDRESS, such as https://github.com/owner/name, it is first written into _config.yml: do that once,
on publishing.
"""

import argparse
import re
import tomllib
import unicodedata
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import nbformat
import yaml

from labkit import check
from tools import ROOT, fill, notebooks, read, site_address, tags, title, write

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
TIME_OUTPUT = re.compile(r"(?m)^(Run all +)\S.*$")
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
    (r"https://[\w.-]+\.git(?:hub|lab)\.io/[\w.-]+/", "{site}"),
    (r"https://[^\s()]+?(?=/actions/workflows/|/tree/student)", "{url}"),
    (r"google\.com/github/[^\s()]+?(?=/blob/)", "google.com/github/{slug}"),
    (r"(?m)^repository-code: .*", "repository-code: {url}"),
)
# GitHub allows no underscore in an account's name; GitLab and Gitea can be on any host.
ADDRESS_PATTERN = re.compile(
    r"https://(?:github\.com/[A-Za-z0-9-]+/[\w.-]+"
    r"|(?!github\.com/)[\w.-]+(?::\d+)?(?:/\w[\w.-]*){2,})"
)
METADATA = {
    "accelerator": "GPU",
    "colab": {"gpuType": "T4", "provenance": []},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
UNKNOWN = "not measured"
LAB_MINUTES = 105  # of a lab of two hours
PLAN = re.compile(r"<!-- (plan (\w+) ([\d= ]+)) -->")
HEADING = re.compile(r"^## ((\d+) .+)$", re.M)
EXERCISE = re.compile(r"^### Exercise (\d+)\.(\d+)(?: — .*\([★☆]{3}, (\d+) min\))?[ \t]*$", re.M)
LINK = re.compile(r"\]\(([^)\s]+)\)")
RESULT = re.compile(r"(?m)^✓ (\S+/\S+) = ([^(\n]+) \(expected .+ on mnist\)$")
LITERATURE = Path(__file__).with_name("literature.toml")


def address() -> tuple[str, str]:
    """Repository address and branch, as _config.yml has them."""
    repository = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))["repository"]
    return repository["url"].rstrip("/"), repository["branch"]


def write_address(url: str) -> None:
    """Put the repository's address into _config.yml; ValueError if it cannot be one."""
    url = url.rstrip("/").removesuffix(".git")
    if not ADDRESS_PATTERN.fullmatch(url):
        raise ValueError(
            f"{url!r} is neither of the form https://github.com/owner/name nor the https:// "
            "address of a project on GitLab or Gitea"
        )
    config = ROOT / "_config.yml"
    text, found = re.subn(r"(?m)^(  url: ).*$", rf"\g<1>{url}", config.read_text("utf-8"))
    if found != 1:
        raise ValueError(f"_config.yml must have one line '  url: ...', it has {found}")
    write(config, text)


def words() -> dict[str, str]:
    """What the texts above name: the address and its parts, Binder's path to it, the version."""
    url, branch = address()
    slug, quoted = url.split("/", 3)[3], urllib.parse.quote(url, safe="")
    place = f"gh/{slug}" if on_github() else f"git/{quoted}"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return {
        "url": url, "branch": branch, "slug": slug, "folder": slug.split("/")[-1],
        "quoted": quoted, "binder": f"{place}/{STUDENT}", "student": STUDENT,
        "version": project["version"], "site": site_address(url) or f"{url}/",
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


def measured() -> dict[str, dict]:
    """labkit/times.toml: for each notebook "cpu", "gpu" and "sections", whatever was measured."""
    return tomllib.loads((ROOT / "labkit" / "times.toml").read_text("utf-8"))


def run_time(name: str) -> str:
    """How long *Run all* takes: "28 s on a 2-core CPU and 9 s on an NVIDIA H200 GPU"."""
    entry = measured().get(name, {})
    known = [entry[kind] for kind in ("cpu", "gpu") if kind in entry]
    article = lambda device: f"a {device}" if device[0].isdigit() else f"an {device}"
    return " and ".join(f"{t['seconds']} s on {article(t['device'])}" for t in known)


def stamp_notebook(notebook, name: str) -> None:
    """Bring one notebook (an nbformat node) in line, in place."""
    head, cpu = notebook.cells[0], measured().get(name, {}).get("cpu")
    if not BADGE_PATTERN.search(head.source):
        raise ValueError(f"{name}: the first cell has no Colab badge to stamp")
    head.source = BADGE_PATTERN.sub(badge(name), head.source)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            told = run_time(name) or "a time that was not measured yet"
            cell.source = TIME_PATTERN.sub(f"*Run all* takes {told}.", cell.source)
            cell.source = with_literature(EXERCISE.sub(heading, cell.source))
            continue
        if "setup" in tags(cell):
            cell.source = setup(name)
            for output in cell.outputs:
                if "text" in output and cpu:
                    took = f"took {cpu['seconds']} s on {cpu['device']}"
                    output.text = TIME_OUTPUT.sub(rf"\g<1>{took}", output.text)
        if "solution" in tags(cell):
            cell.metadata.tags = sorted({*tags(cell), "hide-input"})
            cell.metadata.cellView = "form"
            cell.metadata.jupyter = {"source_hidden": True}
        # Tell the website (MyST-NB) the words that belong to the cell's picture.
        about = [output.get("metadata", {}).get("image/png", {}) for output in cell.outputs]
        words = [entry["alt"] for entry in about if "alt" in entry]
        cell.metadata.pop("mystnb", None)
        if words:
            cell.metadata.mystnb = {"image": {"alt": words[0]}}
    notebook.metadata = nbformat.from_dict(METADATA)


def heading(written: re.Match) -> str:
    """An exercise's heading with the title, stars and minutes that its check has."""
    judge = getattr(check, f"exercise_{written[1]}_{written[2]}", None)
    if not hasattr(judge, "minutes"):
        return written[0]
    stars = "★" * judge.stars + "☆" * (3 - judge.stars)
    return f"### Exercise {judge.number} — {judge.title} ({stars}, {judge.minutes} min)"


def summary(path: Path) -> str:
    """The sentence below a notebook's title that says what the reader makes."""
    lines = read(path).cells[0].source.splitlines()[1:]
    return next(line for line in lines if line and not line.startswith(("[", "!")))


def readme() -> str:
    rows = ["| Notebook | What you make | *Run all* | |", "|---|---|---|---|"]
    for path in notebooks(ROOT):
        link, took = f"[{title(path)}](notebooks/{path.name})", run_time(path.stem) or UNKNOWN
        rows.append(f"| {link} | {summary(path)} | {took} | {badge(path.stem)} |")
    return "\n".join(rows)


def contents() -> str:
    return "\n".join(f"      - file: notebooks/{path.stem}" for path in notebooks(ROOT))


def index() -> str:
    """The landing page's section on each notebook: title, picture, sentence."""
    parts = []
    for path in notebooks(ROOT):
        (picture,) = (cell for cell in read(path).cells if "picture" in tags(cell))
        alt = picture.metadata.get("mystnb", {}).get("image", {}).get("alt", "not run yet")
        parts.append(f"## [{title(path)}](../notebooks/{path.name})")
        parts += [f"![{alt}](../labkit/pictures/{path.stem}.png)", summary(path)]
    return "\n\n".join(parts)


def status() -> str:
    """One row a notebook: its time and memory, on what data, when; then the devices."""
    used: dict[str, list[str]] = {}
    rows = [
        "| Notebook | CPU | GPU | Peak memory | Longest wait | Data | Date |",
        "|---|---|---|---|---|---|---|",
    ]
    for path in notebooks(ROOT):
        entry = measured().get(path.stem, {})
        cpu, gpu, parts = (entry.get(part, {}) for part in ("cpu", "gpu", "sections"))
        longest = max(parts, key=parts.get, default="")
        cells = [
            f"[{title(path)}](../notebooks/{path.name})",
            f"{cpu['seconds']} s" if cpu else UNKNOWN,
            f"{gpu['seconds']} s" if gpu else UNKNOWN,
            f"{cpu['memory']:.1f} GiB" if "memory" in cpu else UNKNOWN,
            f"section {longest}: {parts[longest]:.0f} s" if longest else UNKNOWN,
            *(str(cpu.get(about, UNKNOWN)) for about in ("dataset", "date")),
        ]
        rows.append(f"| {' | '.join(cells)} |")
        for run in filter(None, (cpu, gpu)):
            used.setdefault(f"{run['device']}: {run['versions']}", []).append(path.stem[:2])
    return "\n".join([*rows, "", *(f"- {', '.join(names)} on {on}" for on, names in used.items())])


def references() -> str:
    """Every work that a notebook cites, once, by surname, with the notebooks that cite it."""
    return "\n".join(
        f"- {words} — {', '.join(f'[{n[:2]}](../notebooks/{n}.ipynb)' for n in names)}"
        for words, names in cited()
    )


def cited() -> list[tuple[str, list[str]]]:
    """(work, names of the notebooks that cite it), sorted by the first author's surname.

    A work is a list item below a notebook's heading "References" that leads out of the book, or
    nowhere; works are the same if their links are.
    """
    works: dict[str, tuple[str, list[str]]] = {}
    for path in notebooks(ROOT):
        for cell in read(path).cells:
            after = cell.source.partition("## References")[2] * (cell.cell_type == "markdown")
            for item in re.findall(r"(?m)^- (.+(?:\n  .+)*)$", after):
                link = (LINK.findall(item) or [item])[-1]
                if link.startswith("https://") or link == item:
                    names = works.setdefault(link, (item.rstrip("."), []))[1]
                    names += [path.stem] if path.stem not in names else []
    return sorted(works.values(), key=lambda work: _surname(work[0]))


def _surname(work: str) -> str:
    """What to sort by: the first author's surname, or the first words if there is no author."""
    name = work.split(",")[0].removesuffix(" et al.").split(". ")[-1]
    plain = unicodedata.normalize("NFKD", name.strip("* "))  # ö sorts as o
    return "".join(c for c in plain if not unicodedata.combining(c)).casefold()


def stored() -> dict[str, str]:
    """Each result on MNIST in the notebooks' stored outputs: its value and unit, its notebook."""
    found = {}
    for path in notebooks(ROOT):
        for cell in read(path).cells:
            text = "".join(output.get("text", "") for output in cell.get("outputs", []))
            found |= {name: f"{value} ({path.stem[:2]})" for name, value in RESULT.findall(text)}
    return found


def literature() -> str:
    """Our results beside published ones. Raises ValueError if a notebook has not stored one."""
    ours = stored()
    rows = ["| What | Ours | Published | Source | Comparable? |", "|---|---|---|---|---|"]
    for row in tomllib.loads(LITERATURE.read_text("utf-8"))["row"]:
        if row["result"] not in ours:
            raise ValueError(f"no notebook has stored {row['result']!r}, as {LITERATURE.name} asks")
        cells = row["what"], ours[row["result"]], row["published"]
        source = f"[{row['source']}]({row['url']})"
        rows.append(f"| {' | '.join((*cells, source, row['comparable']))} |")
    return "\n".join(rows)


def with_literature(text: str) -> str:
    """The text, with that table if it has the marker for it."""
    return fill(text, "literature", literature()) if "<!-- literature -->" in text else text


def sections(path: Path) -> Iterator[tuple[int, str, list[str]]]:
    """Number, heading, and exercises with their minutes, of each numbered section."""
    texts = [cell.source for cell in read(path).cells if cell.cell_type == "markdown"]
    for part in re.split(r"(?m)^(?=## )", "\n".join(texts)):
        if found := HEADING.match(part):
            exercises = [f"{a}.{b} ({c} min)" for a, b, c in EXERCISE.findall(part)]
            yield int(found[2]), found[1], exercises


def plan(name: str, minutes: str) -> str:
    """The plan of a lab, from the minutes for each section ("1=10 2=0"; 0: at home).

    Raises ValueError if sections are missing or the time is up.
    """
    planned = {int(a): int(b) for a, b in (pair.split("=") for pair in minutes.split())}
    parts = list(sections(ROOT / "notebooks" / f"{name}.ipynb"))
    if [*planned] != [number for number, *_ in parts] or sum(planned.values()) > LAB_MINUTES:
        raise ValueError(
            f"the plan of {name} must give minutes for sections {[n for n, *_ in parts]}, "
            f"at most {LAB_MINUTES} in all; it has {planned}"
        )
    seconds = measured().get(name, {}).get("sections", {})
    rows = ["| Section | Minutes | Exercises | Runs for |", "|---|---|---|---|"]
    for number, words, exercises in parts:
        ran = f"{seconds[words]:.0f} s" if words in seconds else UNKNOWN
        time = planned[number] or "at home"
        rows.append(f"| {words} | {time} | {', '.join(exercises)} | {ran} |")
    return "\n".join([*rows, f"| **in all** | **{sum(planned.values())}** | | |"])


PAGES = {  # page: (marker, what writes the lines below it), or nothing but addresses
    "CITATION.cff": None,
    "README.md": ("table", readme),
    "_toc.yml": ("notebooks", contents),
    "notebooks/notation.md": None,
    "pages/hosting.md": None,
    "pages/index.md": ("notebooks", index),
    "pages/lecturers_guide.md": ("status", status),
    "pages/references.md": ("references", references),
    "pages/status.md": ("status", status),
}


def page(name: str) -> str:
    """One of the pages as it should be. Raises ValueError if a marker is missing."""
    text, marked = stamp_places((ROOT / name).read_text("utf-8")), PAGES[name]
    if marked:
        text = fill(text, marked[0], marked[1]())
    text = with_literature(text)
    for marker, lab, minutes in PLAN.findall(text):
        text = fill(text, marker, plan(lab, minutes))
    return text


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address", nargs="?", help="https://github.com/owner/name")
    new = parser.parse_args(arguments).address
    if new:
        try:
            write_address(new)
        except ValueError as error:
            parser.error(str(error))
    for path in notebooks(ROOT):
        notebook = read(path)
        stamp_notebook(notebook, path.stem)
        write(path, notebook)
    for name in PAGES:
        write(ROOT / name, page(name))


if __name__ == "__main__":
    main()
