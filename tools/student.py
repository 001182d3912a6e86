"""Write the student edition: no solutions, no folded answers, no outputs.

usage: python -m tools.student [FOLDER]

What goes is decided by tags: a cell tagged `solution`, code or Markdown, and the answer inside
<details>. A check carries nbgrader's metadata and is worth as many points as its exercise has
stars. Beside the notebooks FOLDER (_build/student) gets a wheel of labkit, a zip of both, and what
Binder reads, so it can be handed out from a memory stick, Moodle or any git server;
`tools/publish.sh` puts it on the branch that badges and hubs open.

A list with checksums is kept there, too. A later run replaces the folder only if it holds nothing
but what is listed, unchanged: it never deletes what an earlier run did not write.
"""

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

import nbformat

from tools import ROOT, notebooks, read, stamp, tags, title

LISTED = "student_edition.sha256"  # what was written, as sha256sum lists it
ZIP = "energy-lab-student.zip"
README = """\
# The Energy Lab: student edition

Written by `make student` from [the lab book]({url}); changes are made there.

{table}

You need Python 3.11 or newer. In this folder, best in an environment of its own:

```
pip install "{wheel}[lab]"
jupyter lab
```

pip takes labkit from the wheel beside this file and the packages that it needs from its index.
If the wheel is not there, put `labkit[lab] @ git+{url}@v{version}` between the quotes.

The code is under the MIT License, text and figures under CC BY 4.0; see LICENSE.
"""
ENVIRONMENT = """\
channels: [conda-forge]
dependencies:
  - python=3.13
  - pip
  - pip:
      - labkit[lab] @ git+{url}@v{version}
"""
# Binder gives 2 GiB of memory, too little for MNIST in some notebooks.
START = '#!/bin/sh\nexport LABKIT_DATASET=digits\nexec "$@"\n'
DETAILS = re.compile(r"<details>\s*<summary>(.*?)</summary>.*?</details>", re.DOTALL)
HEADING = re.compile(r"### Exercise (\d+)\.(\d+) — .+ \(([★☆]{3}),")


def student_edition(notebook, name: str, *, outputs: bool = False):
    """A copy of a notebook (an nbformat node) for students.

    With `outputs` what is stored is kept, for a test that runs the copy and compares.
    """
    kept, stars, number = [], 0, ""
    for cell in notebook.cells:
        if "solution" in tags(cell):
            continue
        cell = nbformat.from_dict({**cell, "metadata": dict(cell.metadata)})
        if cell.cell_type == "markdown":
            cell.source = DETAILS.sub(_question, cell.source)
            cell.source = stamp.BADGE_PATTERN.sub(stamp.badge(name, student=True), cell.source)
            for heading in HEADING.finditer(cell.source):
                number, stars = f"{heading[1]}_{heading[2]}", heading[3].count("★")
        else:
            if not outputs:
                cell.outputs, cell.execution_count = [], None
            cell.metadata.pop("mystnb", None)
            if "check" in tags(cell):
                cell.metadata["nbgrader"] = nbgrader_metadata(number, stars)
        kept.append(cell)
    return nbformat.v4.new_notebook(cells=kept, metadata=nbformat.from_dict(notebook.metadata))


def nbgrader_metadata(number: str, stars: int) -> dict:
    """What nbgrader keeps in a check: a locked test, worth a point for each star.

    The stub needs no metadata of its own: nbgrader would blank a cell marked as solution, and
    leaves every other cell to the student. A check says ✗ by an exception when nbgrader runs it.
    """
    return {
        "grade": True, "grade_id": f"exercise_{number}", "locked": True, "points": stars,
        "schema_version": 3, "solution": False, "task": False, "cell_type": "code",
    }  # fmt: skip


def _question(match: re.Match) -> str:
    """A folded question, unfolded, without its answer."""
    question = re.sub(r"</?b>", "**", match[1].strip())
    return f"> {question}" if question.startswith("**") else f"> **Question.** {question}"


def build_wheel(folder: Path) -> str:
    """Build labkit's wheel into a folder; its file name. Nothing is left in the repository."""
    able = find_spec("setuptools") and find_spec("setuptools.command.bdist_wheel")
    isolation = ["--no-build-isolation"] if able else []  # works offline
    with tempfile.TemporaryDirectory() as copy:
        for path in [ROOT / "pyproject.toml", ROOT / "README.md", *ROOT.glob("LICENSE*")]:
            shutil.copy(path, copy)
        ignore = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        shutil.copytree(ROOT / "labkit", Path(copy, "labkit"), ignore=ignore)
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", *isolation]
        subprocess.run([*command, "--wheel-dir", str(folder), copy], check=True)
    return next(folder.glob("labkit-*.whl")).name


def fill(folder: Path) -> None:
    """Write the whole edition into an empty folder."""
    rows = ["| Notebook | |", "|---|---|"]
    for path in notebooks():
        notebook = student_edition(read(path), path.stem)
        nbformat.validate(notebook)
        nbformat.write(notebook, folder / path.name)
        rows.append(f"| [{title(path)}]({path.name}) | {stamp.badge(path.stem, student=True)} |")
    for path in [ROOT / "notebooks" / "notation.md", *ROOT.glob("LICENSE*")]:
        shutil.copy(path, folder)
    words = stamp.words() | {"wheel": build_wheel(folder), "table": "\n".join(rows)}
    (folder / "README.md").write_text(README.format(**words), "utf-8")
    with zipfile.ZipFile(folder / ZIP, "x", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(set(folder.iterdir()) - {folder / ZIP}):
            archive.write(path, f"{Path(ZIP).stem}/{path.name}")
    (folder / "binder").mkdir()
    for name, text in {"environment.yml": ENVIRONMENT, "start": START}.items():
        (folder / "binder" / name).write_text(text.format(**words), "utf-8", newline="\n")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    (folder / LISTED).write_text("".join(lines), "utf-8", newline="\n")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def refuse_others(folder: Path) -> None:
    """Raise FileExistsError if the folder holds more than what an earlier run wrote, unchanged."""
    lines = (folder / LISTED).read_text("utf-8").splitlines() if (folder / LISTED).is_file() else []
    listed = {line[66:]: line[:64] for line in lines}
    ours = {LISTED, "binder", *listed} if listed else set()
    for path in folder.rglob("*") if folder.is_dir() else [folder] * folder.exists():
        name = path.relative_to(folder).as_posix()
        file = path.is_file() and not path.is_symlink()
        if name not in ours or name in listed and not (file and _sha256(path) == listed[name]):
            raise FileExistsError(
                f"{folder} is left as it is: {path.name} is not, or no longer, what `make student` "
                "wrote there. Move it away, or give another folder: make student ARGS=FOLDER"
            )


def write(folder: Path) -> None:
    """Write the edition into a new or empty folder, or in the place of an unchanged earlier one."""
    folder = folder.expanduser().resolve()
    refuse_others(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".student-", dir=folder.parent) as scratch:
        new = Path(scratch, "new")
        new.mkdir()
        fill(new)
        refuse_others(folder)  # someone may have worked in it meanwhile
        if folder.exists():
            folder.rename(Path(scratch, "old"))
        new.rename(folder)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "_build" / "student")
    folder = parser.parse_args(arguments).folder
    try:
        write(folder)
    except (OSError, subprocess.CalledProcessError) as error:
        parser.error(str(error))
    print(f"{len(notebooks())} notebooks, a wheel and {ZIP} in {folder}")


if __name__ == "__main__":
    main()
