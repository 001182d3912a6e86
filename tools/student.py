"""Write the student edition into _build/student: no solutions, no folded answers, no outputs.

usage: python -m tools.student [FOLDER]

Also left out are the sentences that speak of a solution, each of them printed. The cells carry
nbgrader's metadata: a check is worth as many points as its exercise has stars. What is written
is meant as the root of a branch of its own, which the notebooks' badges open; see BRANCH.
"""

import argparse
import re
import shutil
from pathlib import Path

import nbformat

from tools import stamp

BRANCH = "student"
PAGES = ("notation.md",)  # what the notebooks link to beside each other
README = """\
# {title}: student edition

Written by `make student` from [the lab book]({url}); changes are made there.

{table}

The notebooks need labkit, and their first cell installs it on Colab. Elsewhere:
`pip install "labkit[lab] @ git+{url}"`, then `jupyter lab`. The code is under the MIT License, text
and figures under CC BY 4.0; see LICENSE.
"""
DETAILS = re.compile(r"<details>\s*<summary>(.*?)</summary>.*?</details>", re.DOTALL)
HEADING = re.compile(r"### Exercise (\d+)\.(\d+) — .+ \(([★☆]{3}),")
SOLUTION = re.compile(r"\bsolutions?\b", re.IGNORECASE)
SENTENCE = re.compile(r"(?<=[.!?:*])\s+(?=[A-Z*`>])")


def student_edition(notebook, name: str, *, outputs: bool = False):
    """A copy of a notebook (an nbformat node) for students; also the sentences left out.

    With `outputs` what is stored is kept, for a test that runs the copy and compares.
    """
    kept, dropped, stars, number = [], [], 0, ""
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if "solution" in tags:
            continue
        cell = nbformat.from_dict({**cell, "metadata": dict(cell.metadata)})
        if cell.cell_type == "markdown":
            cell.source, gone = without_solutions(DETAILS.sub(_question, cell.source))
            cell.source = stamp.BADGE_PATTERN.sub(badge(name), cell.source)
            dropped += gone
            for heading in HEADING.finditer(cell.source):
                number, stars = f"{heading[1]}_{heading[2]}", heading[3].count("★")
        else:
            if not outputs:
                cell.outputs, cell.execution_count = [], None
            cell.metadata.pop("mystnb", None)
            about = nbgrader_metadata(tags, number, stars)
            if about:
                cell.metadata["nbgrader"] = about
        if cell.source:
            kept.append(cell)
    metadata = nbformat.from_dict(notebook.metadata)
    return nbformat.v4.new_notebook(cells=kept, metadata=metadata), dropped


def nbgrader_metadata(tags: list[str], number: str, stars: int) -> dict | None:
    """What nbgrader keeps in a cell: a check is a locked test, worth a point for each star.

    The stub needs no metadata of its own: nbgrader would blank a cell marked as solution, and
    leaves every other cell to the student. A check says ✗ by an exception where nbgrader runs it.
    """
    if "check" not in tags:
        return None
    return {
        "grade": True, "grade_id": f"exercise_{number}", "locked": True, "points": stars,
        "schema_version": 3, "solution": False, "task": False, "cell_type": "code",
    }  # fmt: skip


def _question(match: re.Match) -> str:
    """A folded question, unfolded, without its answer."""
    question = re.sub(r"</?b>", "**", match[1].strip())
    return f"> {question}" if question.startswith("**") else f"> **Question.** {question}"


def without_solutions(text: str) -> tuple[str, list[str]]:
    """Markdown without the sentences that speak of a solution; those come second.

    In a list the whole item goes, and in a callout (>) the whole paragraph.
    """
    kept, dropped = [], []
    for paragraph in re.split(r"(\n\s*\n|\n(?=- ))", text):
        if not SOLUTION.search(paragraph):
            kept.append(paragraph)
        elif re.match(r"[->#|]", paragraph.strip()):
            dropped.append(paragraph.strip())
        else:
            sentences = SENTENCE.split(paragraph)
            dropped += [s.strip() for s in sentences if SOLUTION.search(s)]
            kept.append(" ".join(s for s in sentences if not SOLUTION.search(s)))
    joined = re.sub(r"\n{3,}", "\n\n", "".join(kept)).strip()
    return joined, [" ".join(sentence.split()) for sentence in dropped]


def badge(name: str) -> str:
    """The Colab badge of a student notebook, which is at the root of its branch."""
    return re.sub(r"/blob/[^)]*/", f"/blob/{BRANCH}/", stamp.badge(name))


def write(folder: Path) -> list[str]:
    """Write the whole edition into an empty or former folder of it; returns what it left out."""
    if folder.exists():
        foreign = [p.name for p in folder.iterdir() if p.suffix not in {".ipynb", ".md", ""}]
        if foreign:
            raise FileExistsError(f"{folder} holds {foreign[0]}; give a folder for this alone")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    rows, left_out = ["| Notebook | |", "|---|---|"], []
    for path in sorted((stamp.ROOT / "notebooks").glob("[0-9]*.ipynb")):
        notebook, dropped = student_edition(nbformat.read(path, as_version=4), path.stem)
        nbformat.validate(notebook)
        nbformat.write(notebook, folder / path.name)
        title = notebook.cells[0].source.splitlines()[0].lstrip("# ")
        rows.append(f"| [{title}]({path.name}) | {badge(path.stem)} |")
        left_out += [f"{path.stem}: {sentence}" for sentence in dropped]
    for page in PAGES:
        shutil.copy(stamp.ROOT / "notebooks" / page, folder / page)
    shutil.copy(stamp.ROOT / "LICENSE", folder / "LICENSE")
    readme = README.format(title="The Energy Lab", url=stamp.address()[0], table="\n".join(rows))
    (folder / "README.md").write_text(readme, "utf-8")
    return left_out


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = stamp.ROOT / "_build" / "student"
    parser.add_argument("folder", nargs="?", type=Path, default=default)
    folder = parser.parse_args(arguments).folder
    try:
        left_out = write(folder)
    except FileExistsError as error:
        parser.error(str(error))
    print(f"{len(list(folder.glob('*.ipynb')))} notebooks in {folder}; sentences left out:")
    print("\n".join(f"  {sentence}" for sentence in left_out) or "  none")


if __name__ == "__main__":
    main()
