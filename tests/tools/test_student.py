"""The student edition: nothing given away, runs untouched; right and wrong answers in it."""

import importlib
import json
import os
import re

import nbformat
import pytest
from nbclient import NotebookClient

from labkit import check
from labkit.exercises import core
from tests.exercises import test_nb00_nb01 as test_exercises
from tests.exercises import test_nb02, test_nb03
from tools import ROOT, stamp, student

PATHS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
CALL = re.compile(r"check\.(exercise_\d+_\d+)\((\w+)\)")
each = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def tags_of(cell):
    return cell.metadata.get("tags", [])


def code_of(notebook, *, solutions):
    return [
        cell.source
        for cell in notebook.cells
        if cell.cell_type == "code" and ("solution" in tags_of(cell)) == solutions
    ]


def pasted(notebook):
    """The code cells with one solution in the place of its stub, for each solution."""
    for source in code_of(notebook, solutions=True):
        ((_, name),) = CALL.findall(source)
        stub = re.compile(rf"^def {name.removesuffix('_solution')}\(", re.MULTILINE)
        answer = CALL.sub("", source).replace(name, name.removesuffix("_solution"))
        yield [answer if stub.search(c) else c for c in code_of(notebook, solutions=False)]


@pytest.fixture(scope="module")
def edition(tmp_path_factory):
    folder = tmp_path_factory.mktemp("edition") / "student"
    student.main([str(folder)])
    return folder


# What is in it ------------------------------------------------------------------------------------


@each
def test_no_solution_is_left(path, edition):
    ours, text = read(path), (edition / path.name).read_text("utf-8")
    public = "\n".join(code_of(ours, solutions=False))
    solutions = code_of(ours, solutions=True)
    assert solutions
    secret = 0
    for source in solutions:
        for name in re.findall(r"def (\w+_solution)\(", source):
            assert name not in text
        for line in map(str.strip, source.splitlines()):
            if len(line) > 15 and line not in public:
                secret += 1
                assert json.dumps(line, ensure_ascii=False)[1:-1] not in text, line
    assert secret >= len(solutions)
    theirs = read(edition / path.name)
    assert not student.SOLUTION.search("\n".join(cell.source for cell in theirs.cells))


@each
def test_questions_are_kept_and_answers_are_not(path, edition):
    ours = "\n".join(c.source for c in read(path).cells if c.cell_type == "markdown")
    theirs = "\n".join(c.source for c in read(edition / path.name).cells)
    assert "<details" not in theirs and "</details>" not in theirs and "<summary" not in theirs
    folded = re.findall(r"<summary>(.*?)</summary>(.*?)</details>", ours, re.DOTALL)
    assert folded
    for question, answer in folded:
        assert re.sub(r"</?b>", "**", question) in theirs
        longest = max(answer.splitlines(), key=len)
        assert len(longest) > 40 and longest not in theirs


@each
def test_everything_else_is_there_without_outputs(path, edition):
    ours, theirs = read(path), read(edition / path.name)
    nbformat.validate(theirs)
    assert code_of(theirs, solutions=False) == code_of(ours, solutions=False)
    assert not code_of(theirs, solutions=True)
    for cell in theirs.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
    left = [c.source for c in theirs.cells if c.cell_type == "markdown"]
    kept = [c for c in ours.cells if c.cell_type == "markdown" and "<details" not in c.source]
    same = sum(cell.source in left for cell in kept)
    assert same >= len(kept) - 3, "one has the badge, and few speak of solutions"


@each
def test_links_lead_somewhere_in_the_folder_and_badges_open_the_branch(path, edition):
    pages = [c.source for c in read(edition / path.name).cells if c.cell_type == "markdown"]
    pages += [(edition / page).read_text("utf-8") for page in ("README.md", "notation.md")]
    for target in re.findall(r"\]\((?!https?://|#)([^)\s]+)\)", "\n".join(pages)):
        assert (edition / target).exists(), target
    url, _ = stamp.address()
    place = url.replace("https://github.com", "https://colab.research.google.com/github")
    for file in (edition / path.name, edition / "README.md"):
        assert f"{place}/blob/{student.BRANCH}/{path.name})" in file.read_text("utf-8")


@each
def test_checks_carry_nbgraders_metadata(path, edition):
    stars = [
        heading.count("★")
        for cell in read(path).cells
        for heading in re.findall(r"### Exercise .+ \(([★☆]{3}),", cell.source)
    ]
    graded = [c for c in read(edition / path.name).cells if "nbgrader" in c.metadata]
    assert [cell.metadata.nbgrader.points for cell in graded] == stars
    for cell in graded:
        about = cell.metadata.nbgrader
        assert about.grade and about.locked and not about.solution
        assert about.grade_id == CALL.fullmatch(cell.source)[1]


def test_sentences_that_speak_of_a_solution_go_and_the_others_stay():
    text = (
        "Write it. The solution is below. Then go on.\n\n- an item;\n- a solution;\n\n> A solution."
    )
    kept, dropped = student.without_solutions(text)
    assert kept == "Write it. Then go on.\n\n- an item;"
    assert dropped == ["The solution is below.", "- a solution;", "> A solution."]
    assert student.without_solutions("A *resolution*.\n\nB.") == ("A *resolution*.\n\nB.", [])


def test_it_is_written_afresh_and_over_nothing_else(tmp_path, capsys):
    folder = tmp_path / "student"
    student.main([str(folder)])
    assert "00_start_here: The cell after that holds" in capsys.readouterr().out
    (folder / "99_old.ipynb").write_text("old")
    student.main([str(folder)])
    assert not (folder / "99_old.ipynb").exists()
    (folder / "thesis.tex").write_text("precious")
    with pytest.raises(SystemExit):
        student.main([str(folder)])
    assert "thesis.tex" in capsys.readouterr().err and (folder / "thesis.tex").exists()


@each
def test_runs_untouched_from_top_to_bottom(path, edition, monkeypatch):
    """Notebook 00 always; all of them in CI's second pass, on the embedded digits."""
    if os.environ.get("LABKIT_DATASET") != "digits" and not path.stem.startswith("00"):
        pytest.skip("needs LABKIT_DATASET=digits, where it takes a minute or two")
    monkeypatch.setenv("LABKIT_DATASET", "digits")
    monkeypatch.setenv("LABKIT_STATIC", "1")
    notebook = read(edition / path.name)
    NotebookClient(notebook, timeout=600, kernel_name="python3",
                   resources={"metadata": {"path": str(edition)}}).execute()  # fmt: skip
    said = ["".join(o.get("text", "") for o in c.outputs) for c in notebook.cells
            if "check" in tags_of(c)]  # fmt: skip
    assert said and all(text.rstrip().endswith("not attempted yet") for text in said)


# Answers in it ------------------------------------------------------------------------------------


def test_each_solution_in_its_stub_turns_its_check_to_a_tick():
    """As a student would hand it in: taken out of the notebook, run in the sandbox."""
    grade = pytest.importorskip("tools.grading.grade")
    course = grade.course(ROOT / "notebooks")
    assert [path.stem for path in PATHS] == list(course)
    with grade.Sandbox(grade.LIMITS) as box:
        for path in PATHS:
            for exercise, cells in zip(course[path.stem], pasted(read(path)), strict=True):
                assert grade._judged(exercise, cells, box) == core.Verdict("done"), exercise.number


GENERAL = ("the value is off", "expected shape", "your code raised", "cannot be compared")


def wrong_answers() -> dict[str, list]:
    """Every wrong answer in the tests of the exercises, by the exercise's number."""
    found = {}
    for exercise, answer, words in test_exercises.CASES:
        found.setdefault(exercise.number, []).append((answer, words))
    for number, (_, _, wrong) in test_nb02.EXERCISES.items():
        found[number] = [(answer, words) for words, answer in wrong.items()]
    for exercise, _, wrong in test_nb03.EXERCISES:
        found[exercise.number] = list(wrong)
    for path in (ROOT / "tests").glob("test_nb0*.py"):
        for name, test in vars(importlib.import_module(path.stem)).items():
            if re.fullmatch(r"test_\d+_\d+", name):
                (cases,) = (mark.args[1] for mark in test.pytestmark)
                found[name.removeprefix("test_").replace("_", ".")] = list(cases)
    return found


EXERCISES = [getattr(check, name) for name in dir(check) if name.startswith("exercise_")]


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.number)
def test_at_least_two_typical_mistakes_of_each_exercise_are_tested_and_named(exercise):
    named = set()
    for answer, _ in wrong_answers().get(exercise.number, []):
        state, hint = core.verdict(exercise.__wrapped__, answer)
        if state == "wrong" and not hint.startswith(GENERAL):
            named.add(re.sub(r"\(yours.*", "", hint))
        if len(named) == 2:
            return
    pytest.fail(f"of {exercise.number} only these are: {named}")
