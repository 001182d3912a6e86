"""Grade a class: `python -m tools.grading FOLDER --csv class.csv --feedback DIR`."""

import argparse
import concurrent.futures
import contextlib
import csv
import functools
import html
import io
import os
import re
import secrets
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import nbformat

from labkit import files
from tools import notebooks, read, student, tags
from tools.grading import grade as grading

MOODLE = re.compile(r"(.+?)_(\d+)_assignsubmission_")
UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]+")
UNENCLOSED = """{}: so submissions can use the network, read solutions and other submissions, change
your files, and leave processes behind. A container with bubblewrap in it prevents that:
docker run --rm --privileged -v "$PWD":/lab -w /lab -v FOLDER:/class python:3.13 sh -c "apt-get \
update -qq; apt-get install -qq bubblewrap; pip install -q -e .[grade]; python -m tools.grading \
/class --csv /class/class.csv"
"""
MARK = {"done": "✓", "wrong": "✗", "not attempted": "…", "not judged": "?"}


def handed_in(given: Path, skip: set[Path]) -> list[tuple[str, Path, Path | None]]:
    """Each file with its student, and with the folder of that student alone, if there is one.

    Understands `submitted/STUDENT/ASSIGNMENT` (nbgrader) and `NAME_NUMBER_assignsubmission_…`
    (Moodle); else a folder, or a file in none, is a student's.
    """
    given = given.resolve()
    if not given.is_dir():
        return [(_student(given.name, given.stem), given, None)]
    found = []
    for folder, folders, names in os.walk(given):
        folders.sort()
        links = [name for name in folders if Path(folder, name).is_symlink()]
        for path in sorted(Path(folder, name) for name in names + links):
            first, *rest = path.relative_to(given).parts
            if first == "submitted" and len(rest) > 1:
                first, *rest = rest
            if given.parent.name == "submitted":
                found.append((given.name, path, path.parent))
            elif skip.isdisjoint([path, *path.parents]):
                own = path.parent if rest else None
                found.append((_student(first, first if rest else path.stem), path, own))
    return found


def _student(name: str, otherwise: str) -> str:
    moodle = MOODLE.match(name)
    return f"{moodle[1]} ({moodle[2]})" if moodle else otherwise


def beside(folder: Path | None) -> dict[str, bytes]:
    """What a student's own folder holds beside the notebook, up to 16 MiB."""
    found, room = {}, 2**24
    for path in sorted(folder.rglob("*")) if folder else ():
        with contextlib.suppress(ValueError):
            if path.suffix != ".ipynb":
                found[path.relative_to(folder).as_posix()] = data = grading.content(path, room)
                room -= len(data)
    return found


def cell(text: str) -> str:
    """Text that a spreadsheet shows and does not compute: one line, no formula, valid UTF-8."""
    text = UNSEEN.sub(" ", text.encode("utf-8", "replace").decode()).strip()
    return "'" + text if text.startswith(("=", "+", "-", "@")) else text


def summary(grades: list, ours: dict) -> tuple[dict, list[tuple[str, str]]]:
    """A student's points by exercise, of several files the best; and (state, line) for each."""
    best, points, lines = {}, {}, []
    for number, verdict in (item for g in grades for item in g.verdicts.items()):
        if number not in best or verdict.state == "done":
            best[number] = verdict
    for check in (e.check for exercises, _ in ours.values() for e in exercises):
        if check.number in best:
            state, hint = best[check.number]
            points[check.number] = check.stars * (state == "done") if state != "not judged" else ""
            line = f"{MARK[state]} {check.number} {check.title}"
            if state != "done":
                line += f": {hint[:500] or state}"
                look = any(check.number in g.shown for g in grades)
                line += " (look at this one: the notebook shows ✓)" if look else ""
            lines.append((state, line))
    return points, lines + [("", f"{Path(g.file).name}: {g.note}") for g in grades if g.note]


def table(by_student: dict[str, list], ours: dict) -> list[list]:
    """A head, then a row for each student: points for each exercise, total, maximum, note.

    The exercises are those of every notebook that somebody handed in, with a point for each star;
    no entry for what was not handed in, or could not be judged.
    """
    names = {grade.notebook for grades in by_student.values() for grade in grades}
    checks = [e.check for n in sorted(names - {""}) for e in ours[n][0]]
    head = [f"{check.number} (of {check.stars})" for check in checks]
    rows, writers = [["student", *head, "total", "maximum", "note"]], defaultdict(set)
    for one in (g for grades in by_student.values() for g in grades):
        if any(v.state != "not attempted" for v in one.verdicts.values()):
            writers[one.own].add(one.student)
    for who, grades in sorted(by_student.items()):
        points, lines = summary(grades, ours)
        notes = [line for state, line in lines if state != "done"]
        same = sorted(set().union(*(writers[g.own] for g in grades)) - {who})
        notes += [f"the same code as {', '.join(same)}"] * bool(same)
        row = [points.get(check.number, "") for check in checks]
        total = sum(p or 0 for p in row), sum(check.stars for check in checks)
        rows.append([cell(who), *row, *total, cell("; ".join(notes))])
    return rows


def page(who: str, grades: list, ours: dict, seed: int) -> str:
    """The feedback for a student, in HTML."""
    who, (points, lines) = html.escape(cell(who)), summary(grades, ours)
    items = "\n".join(f"<li>{html.escape(UNSEEN.sub(' ', line))}</li>" for _, line in lines)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{who}</title>\n<h1>{who}</h1>'
        f"\n<ul>\n{items}\n</ul>\n<p>{sum(p or 0 for p in points.values())} points. "
        f"The inputs were drawn anew, with seed {seed}.</p></html>\n"
    )


def tried(folder: Path) -> list[tuple[str, Path, None]]:
    """Our solutions as one student's files, and the student edition as another's."""
    found = []
    for path in notebooks():
        solved, edition = read(path), student.student_edition(read(path), path.stem)
        for part in solved.cells:
            if "solution" in tags(part):
                part.metadata["tags"], part.source = [], part.source.replace("_solution", "")
        for who, made in {"solutions": solved, "student edition": edition}.items():
            found.append((who, folder / f"{path.stem} {who}.ipynb", None))
            nbformat.write(made, found[-1][1])
    return found


def main(arguments: list[str] | None = None) -> int:
    """The command line; see `python -m tools.grading --help`."""
    parser = argparse.ArgumentParser(prog="python -m tools.grading", description=__doc__)
    add = parser.add_argument
    add("files", nargs="*", type=Path, help="folders of submissions, or notebooks")
    add("--csv", type=Path, help="write the table into this file, whole after each notebook")
    add("--feedback", type=Path, help="write a page for each student into this folder")
    add("--dry-run", action="store_true", help="grade our solutions and the student edition")
    add("--seconds", type=float, default=60, help="for an exercise (default %(default)g)")
    add("--memory", type=float, default=3, help="GiB for a submission (default %(default)g)")
    add("--jobs", type=int, default=max(1, (os.cpu_count() or 1) // 2), help="at a time")
    add("--seed", type=int, default=secrets.randbelow(10**9), help="for the inputs of another run")
    given = parser.parse_args(arguments)
    sys.stdout.reconfigure(errors="replace")  # a console may not know ½
    if given.seconds <= 0 or given.memory <= 0 or given.jobs < 1:
        parser.error("--seconds and --memory must be above zero, --jobs at least 1")
    if missing := [str(path) for path in given.files if not path.exists()]:
        parser.error(f"no such file: {', '.join(missing)}")
    if given.csv and given.csv.is_symlink():
        parser.error(f"{given.csv} is a link; give the file itself")
    skip = {path.resolve() for path in (given.csv, given.feedback) if path}
    with tempfile.TemporaryDirectory() as folder:
        found = tried(Path(folder)) if given.dry_run else []
        found += [file for path in given.files for file in handed_in(path, skip)]
        if not found:
            parser.error("nothing to grade: give a folder with submissions")
        return run(found, given)


def run(found: list[tuple[str, Path, Path | None]], given: argparse.Namespace) -> int:
    """Grade files; the table and the pages are written as rows come."""
    ours, by_student, pages, began = grading.course(), {}, {}, time.monotonic()
    cage = grading.Cage(*{path.parent for _, path, _ in found})
    print(UNENCLOSED.format(cage.lacks) if cage.lacks else "", end="", flush=True)
    sandbox = functools.partial(grading.Sandbox, cage, given.seconds, given.memory)

    def graded(who: str, path: Path, own: Path | None):
        if path.suffix != ".ipynb" or path.name.startswith("."):
            return grading.Grade(who, str(path), "this is not a notebook")
        return grading.grade(who, path, beside(own), ours, sandbox, given.seed)

    pool = concurrent.futures.ThreadPoolExecutor(given.jobs)
    try:
        for done in concurrent.futures.as_completed([pool.submit(graded, *one) for one in found]):
            one = done.result()
            mine = by_student.setdefault(one.student, [])
            mine.append(one)
            if given.csv:
                text = io.StringIO(newline="")
                csv.writer(text).writerows(table(by_student, ours))
                _write(given.csv, text.getvalue(), "utf-8-sig")
            if given.feedback:
                name = re.sub(r"[^\w-]+", "_", one.student)[:80]
                while pages.setdefault(name.casefold(), one.student) != one.student:
                    name += "_"  # Ann-e and Ann.e are two
                _write(
                    given.feedback / f"{name}.html",
                    page(one.student, mine, ours, given.seed),
                    "utf-8",
                )
            lines = "; ".join(line for _, line in summary([one], ours)[1])
            print(cell(f"{one.file}: {lines}"), flush=True)
    except KeyboardInterrupt:
        for box in list(grading.LIVE):
            box.close()
        os._exit(130)
    print(f"{len(found)} files in {time.monotonic() - began:.0f} s; inputs of --seed {given.seed}")
    if given.dry_run:
        most, *points = [row[-3] for row in table(by_student, ours)[1:]]
        return most != table(by_student, ours)[1][-2] or any(points)
    again = [one.file for grades in by_student.values() for one in grades
             if "not judged" in [v.state for v in one.verdicts.values()]]  # fmt: skip
    print("\n".join(f"could not be judged, run it again: {cell(file)}" for file in again), end="")
    return bool(again)


def _write(path: Path, text: str, encoding: str) -> None:
    with files.whole(path) as file:
        file.write(text.encode(encoding, "replace"))


if __name__ == "__main__":
    sys.exit(main())
