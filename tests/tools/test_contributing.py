"""CONTRIBUTING.md is followed word for word, in a copy: an exercise 0.3 and a notebook 07."""

import os
import re
import shutil
import subprocess
import sys
from itertools import takewhile

import nbformat
import pytest

from labkit import check
from tools import ROOT, read, tags


def blocks(section):
    """The fenced blocks of one section of CONTRIBUTING.md: (language, text)."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8").split(f"\n## {section}\n")[1]
    found = re.findall(r"(?s)```(\w+)\n(.*?)\n```|\n(## )", text)
    return [(kind, inside) for kind, inside, _ in takewhile(lambda block: not block[2], found)]


def exercise(number):
    """The judge of an exercise, the cases of its test, and its four cells."""
    renamed = [(kind, text.replace("0.3", number).replace("0_3", number.replace(".", "_")))
               for kind, text in blocks("Add an exercise")]  # fmt: skip
    (_, judge), (_, cases), *cells = renamed
    stub = int(number.split(".")[1])
    cells = [(kind, text.replace("double", f"double{stub}")) for kind, text in cells]
    marked = [], ["exercise"], ["check", "nbval-check-output"], ["solution", "nbval-check-output"]
    return judge, cases, [cell(*pair, *names) for pair, names in zip(cells, marked, strict=True)]


def cell(kind, text, *names):
    new = nbformat.v4.new_markdown_cell if kind == "markdown" else nbformat.v4.new_code_cell
    return new(text, metadata={"tags": list(names)} if names else {})


@pytest.mark.skipif(not hasattr(check.exercise_0_1, "minutes"), reason="titles come from headings")
def test_the_page_can_be_followed_literally(tmp_path):
    for name in ("labkit", "tools", "pages", "notebooks", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.glob("*"):
        if path.is_file():
            shutil.copy(path, tmp_path)
    exercises, books = tmp_path / "labkit" / "exercises", tmp_path / "notebooks"

    # Add an exercise: one function, four cells after those of 0.2.
    judge, cases, cells = exercise("0.3")
    tried = tmp_path / "tests" / "exercises"
    with open(tried / "nb00.py", "a", encoding="utf-8") as file:
        file.write(cases)
    module = exercises / "nb00.py"
    text = module.read_text("utf-8")
    line = re.search(r"from labkit\.exercises\.core import (.*)", text)
    names = ", ".join(sorted({*line[1].split(", "), "attempt", "exercise", "expect"}))
    module.write_text(text.replace(line[1], names, 1) + f"\n\n{judge}\n", "utf-8")
    (zero,) = books.glob("00_*.ipynb")
    book = read(zero)
    last = max(
        i for i, c in enumerate(book.cells) if "solution" in tags(c) and c.cell_type == "code"
    )
    book.cells[last + 1 : last + 1] = cells
    nbformat.write(book, zero)

    # Add a notebook, with three exercises, after the last one.
    head, first, picture, end = (cell(*block) for block in blocks("Add a notebook"))
    picture.metadata["tags"] = ["picture"]
    parts, judges = [], [line[0].replace(line[1], "attempt, exercise, expect")]
    tests = ["CASES = []"]
    for number in ("8.1", "8.2", "8.3"):
        judge, cases, cells = exercise(number)
        parts, judges, tests = parts + cells, [*judges, judge], [*tests, cases]
    (exercises / "nb08.py").write_text("\n\n\n".join(judges) + "\n", "utf-8")
    (tried / "nb08.py").write_text("\n".join(tests) + "\n", "utf-8")
    held = [cell("python", 'check.that("1 is 1", 1 == 1)', "nbval-check-output") for _ in range(2)]
    setup = cell("python", "", "setup")
    book = [head, setup, first, *parts, *held, picture, end]
    nbformat.write(nbformat.v4.new_notebook(cells=book), books / "08_new.ipynb")
    before = sorted(books.glob("07_*.ipynb"))[0]
    text = before.read_text("utf-8")
    before.write_text(text.replace("**Where next**: ", "**Where next**: [08](08_new.ipynb), or "))

    def python(*arguments):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
        environment["PYTHONPATH"] = str(tmp_path)
        done = subprocess.run([sys.executable, *arguments], cwd=tmp_path, env=environment,
                              capture_output=True, text=True)  # fmt: skip
        return done.stdout + done.stderr

    python("-m", "tools.stamp")
    run = (
        "from pathlib import Path; from tools import run; import os; path = Path('notebooks', {!r})"
    )
    run += "; run.execute(path, {{'LABKIT_DATASET': os.environ.get('LABKIT_DATASET', '')}})"
    for name in (zero.name, "08_new.ipynb"):
        assert "Error" not in (said := python("-c", run.format(name))), said
    python("-m", "tools.stamp")

    assert "### Exercise 0.3 — Twice as much (★☆☆, 5 min)" in zero.read_text("utf-8")
    for name in ("README.md", "_toc.yml", "pages/index.md", "pages/status.md"):
        assert "notebooks/08_new" in (tmp_path / name).read_text("utf-8"), name
    choice = "not nbval and (00_start or 07_cap or 08_new or there_are)"
    if "MNIST (LeCun" not in str(read(books / "08_new.ipynb").cells[1].outputs):
        choice += " and not mnist and not what_is_stored"
    said = python("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/notebooks", "-k", choice)
    assert re.search(r"\b[34]\d passed", said) and "failed" not in said, said
    said = python("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/tools/test_stamp.py",
                  "tests/exercises", "-k", "every_page or 0.3 or 8.1")  # fmt: skip
    assert "failed" not in said and "passed" in said, said
    done = "from labkit import check; check.exercise_0_3(lambda x: 2 * x); check.summary()"
    said = python("-c", done)
    assert "1 of 3 exercises done" in said and re.search(r"0\.3  Twice as much +done", said), said
