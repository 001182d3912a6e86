"""nbgrader and Otter on the student edition: what they hand out, and what they grade.

Needs LABKIT_NBGRADER, the Python of an environment with nbgrader 0.9.6, Otter 7 and what labkit
needs. For nbgrader the notebooks' kernel stays the one that runs these tests, as on a hub where
nbgrader and the kernels live apart.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tools import ROOT, student

PYTHON = os.environ.get("LABKIT_NBGRADER", "")
pytestmark = pytest.mark.skipif(not PYTHON, reason="set LABKIT_NBGRADER to a Python with nbgrader")

CONFIG = """
c = get_config()
c.CourseDirectory.course_id = "energy"
c.Execute.timeout = 600
"""
SCORES = """
import json
from nbgrader.api import Gradebook
with Gradebook("sqlite:///gradebook.db") as book:
    for one in book.assignment_submissions("lab"):
        grades = {g.cell.name: g.auto_score for n in one.notebooks for g in n.grades}
        print(json.dumps([one.student.id, one.max_score, grades]))
"""
VALIDATE = """
import sys, nbformat
from nbgrader.nbgraderformat import MetadataValidator
for path in sys.argv[1:]:
    MetadataValidator().validate_nb(nbformat.read(path, as_version=4))
"""
RIGHT = {
    "momentum_step": "    velocity = beta * velocity - rate * gradient(z)\n"
    "    return z + velocity, velocity",
    "mean_energy": "    return jnp.mean(jax.vmap(energy)(points))",
}
WRONG = {"momentum_step": RIGHT["momentum_step"].replace("- rate", "+ rate")}


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A course with two assignments: `lab`, of one notebook, and `all` of them, handed out."""
    folder = tmp_path_factory.mktemp("course")
    student.main([str(folder / "edition")])
    for assignment, names in {"lab": "00*.ipynb", "all": "*.ipynb"}.items():
        (folder / "source" / assignment).mkdir(parents=True)
        for path in (folder / "edition").glob(names):
            shutil.copy(path, folder / "source" / assignment)
    (folder / "nbgrader_config.py").write_text(CONFIG)
    kernel = folder / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    about = {"argv": command, "display_name": "Python 3", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(about))
    for assignment in ("lab", "all"):
        nbgrader(folder, "generate_assignment", assignment)
    return folder


def nbgrader(folder, *arguments) -> str:
    return run(folder, "-m", "nbgrader", *arguments)


def run(folder, *arguments) -> str:
    environment = {
        "PATH": os.pathsep.join([str(Path(PYTHON).parent), os.environ["PATH"]]),  # for alembic
        "JUPYTER_PATH": str(folder / "jupyter"),
        "LABKIT_DATASET": "digits",
        "LABKIT_STATIC": "1",
    }
    done = subprocess.run([PYTHON, *arguments], cwd=folder, capture_output=True, text=True,
                          env=os.environ | environment)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def hand_in(course, name, answers, edit=None):
    notebook = nbformat.read(course / "release" / "lab" / "00_start_here.ipynb", as_version=4)
    for cell in notebook.cells:
        for function, body in answers.items():
            if cell.source.startswith(f"def {function}("):
                cell.source = cell.source.removesuffix("    ...") + body
        if edit and "nbgrader" in cell.metadata:
            cell.source = edit
    target = course / "submitted" / name / "lab" / "00_start_here.ipynb"
    target.parent.mkdir(parents=True)
    nbformat.write(notebook, target)


def test_what_is_handed_out_is_the_student_edition(course):
    for source in sorted((course / "source" / "all").glob("*.ipynb")):
        ours = nbformat.read(source, as_version=4)
        released = nbformat.read(course / "release" / "all" / source.name, as_version=4)
        assert [c.source for c in released.cells] == [c.source for c in ours.cells]
        graded = [c.metadata.nbgrader for c in released.cells if "nbgrader" in c.metadata]
        stubs = [c for c in ours.cells if "exercise" in c.metadata.get("tags", [])]
        assert len(graded) == len(stubs) and all(about.checksum for about in graded)


def test_nbgraders_own_validator_accepts_every_notebook(course):
    run(course, "-c", VALIDATE, *map(str, (course / "source" / "all").glob("*.ipynb")))


def test_right_answers_get_all_points_and_everything_else_none(course):
    hand_in(course, "anna", RIGHT)
    hand_in(course, "ben", WRONG | {"mean_energy": RIGHT["mean_energy"]})
    hand_in(course, "eve", WRONG, edit="print('✓')")
    nbgrader(course, "autograde", "lab")
    got = {
        name: (most, grades)
        for name, most, grades in map(json.loads, run(course, "-c", SCORES).splitlines())
    }
    assert got == {
        "anna": (2.0, {"exercise_0_1": 1.0, "exercise_0_2": 1.0}),
        "ben": (2.0, {"exercise_0_1": 0.0, "exercise_0_2": 1.0}),
        "eve": (2.0, {"exercise_0_1": 0.0, "exercise_0_2": 0.0}),  # wrong, and not attempted
    }
    ours = course / "ours.csv"  # the same marks from our own grader, on the same files
    subprocess.run([sys.executable, "-m", "tools.grading", course / "submitted", "--csv", ours],
                   cwd=ROOT, check=True, capture_output=True)  # fmt: skip
    rows = {row["student"]: row for row in csv.DictReader(ours.open(encoding="utf-8-sig"))}
    assert {name: (rows[name]["0.1 (of 1)"], rows[name]["0.2 (of 1)"]) for name in got} == {
        name: tuple(f"{grades[f'exercise_0_{n}']:g}" for n in (1, 2))
        for name, (_, grades) in got.items()
    }
    path = course / "autograded" / "eve" / "lab" / "00_start_here.ipynb"
    graded = nbformat.read(path, as_version=4)
    checks = [cell for cell in graded.cells if "nbgrader" in cell.metadata]
    assert [cell.source for cell in checks] == [
        "check.exercise_0_1(momentum_step)", "check.exercise_0_2(mean_energy)",
    ]  # fmt: skip
    said = "".join(output.get("text", "") for cell in checks for output in cell.outputs)
    assert "you climb" in said and "not attempted yet" in said


def test_otter_gives_the_same_points(course, tmp_path):
    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "LABKIT_DATASET": "digits", "LABKIT_STATIC": "1",
    }  # fmt: skip
    command = [PYTHON, "-m", "tools.grading.gradescope", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    assert len(list(tmp_path.glob("*.zip"))) == len(list((course / "source" / "all").iterdir()))
    hand_in(course, "otto", WRONG | {"mean_energy": RIGHT["mean_energy"]})
    handed_in = course / "submitted" / "otto" / "lab" / "00_start_here.ipynb"
    command = [PYTHON, "-m", "otter", "run", "-a", "00_start_here.zip", str(handed_in)]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    tests = json.loads((tmp_path / "results.json").read_text("utf-8"))["tests"]
    points = {one["name"][:3]: (one["score"], one["max_score"]) for one in tests[1:]}
    assert points == {"0.1": (0, 1), "0.2": (1, 1)} and "you climb" in tests[1]["output"]
