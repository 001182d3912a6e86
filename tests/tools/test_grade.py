"""`python -m tools.grading`: what submissions get, and what they cannot do."""

import contextlib
import csv
import json
import os
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tools import ROOT

pytest.importorskip("cloudpickle")
pytest.importorskip("psutil")

from tools.grading import grade, sandbox

COURSE = grade.course(ROOT / "notebooks")
FIRST, SECOND = COURSE["00_start_here"]
RIGHT = """
def momentum_step(gradient, z, velocity, rate, beta):
    velocity = beta * velocity - rate * gradient(z)
    return z + velocity, velocity
"""
RIGHT_TOO = """
def mean_energy(energy, points):
    return jnp.mean(jax.vmap(energy)(points))
"""
STUB = "def momentum_step(gradient, z, velocity, rate, beta):\n    ...\n"


def body(*lines):
    """The function that exercise 0.1 asks for, with this body."""
    head = "def momentum_step(gradient, z, velocity, rate, beta):\n"
    return head + "".join(f"    {line}\n" for line in lines)


def notebook(path, *cells, tags=()):
    cells = [
        {"cell_type": "code", "metadata": {"tags": list(tags)}, "source": cell, "outputs": []}
        for cell in cells
    ]
    path.write_text(json.dumps({"cells": cells, "nbformat": 4}), "utf-8")
    return path


@pytest.fixture(scope="module")
def boxes():
    """One sandbox for all submissions that leave theirs alive."""
    kept = []

    def get():
        if not kept or kept[-1].ended:
            kept.append(grade.Sandbox(grade.Limits(seconds=20)))
        return kept[-1]

    yield get
    for box in kept:
        box.__exit__()


@pytest.fixture
def judged(boxes):
    return lambda *cells, exercise=FIRST: grade._judged(exercise, list(cells), boxes())


# Answers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cells",
    [
        (RIGHT,),
        ("import jax", STUB, RIGHT, STUB),
        ("%matplotlib inline\n!ls\nfactor = 1.0", RIGHT.replace("rate *", "factor * rate *")),
        (RIGHT.replace("gradient(z)", "slope(gradient, z)"), "def slope(f, z):\n    return f(z)"),
        ("%%time\nfrom math import *\nhalf = cos(0) / 2\nhalf = 2 * half", body(
            "velocity = beta * velocity - half * rate * gradient(z)",
            "return [z + velocity, velocity]",
        )),
        ("def broken(:", "1 / 0", RIGHT, "raise SystemExit"),
        ("momentum_step = lambda g, z, v, r, b: (z + b * v - r * g(z), b * v - r * g(z))",),
        ("@jax.jit\ndef new(v, r, b, s):\n    return b * v - r * s", body(
            "print('✓ Exercise 0.1', flush=True)",
            "v = new(velocity, rate, beta, gradient(z))",
            "return z + v, v",
        )),
    ],
)  # fmt: skip
def test_a_right_answer_is_found_with_what_it_needs_and_nothing_else_runs(judged, cells):
    assert judged(*cells) == ("done", "")


@pytest.mark.parametrize(
    ("cells", "state", "hint"),
    [
        ((RIGHT.replace("- rate", "+ rate"),), "wrong", "you climb"),
        ((RIGHT.replace("beta * ", ""),), "wrong", "β is missing"),
        ((STUB,), "not attempted", ""),
        ((body('"""A docstring."""', "raise NotImplementedError()"),), "not attempted", ""),
        ((body("pass"),), "not attempted", ""),
        (("z = 1",), "wrong", "there is no function `momentum_step`"),
        ((STUB, RIGHT.replace("beta):", "beta)")), "wrong", "SyntaxError"),
        ((body("return undefined_helper(z)"),), "wrong", "'undefined_helper' is not defined"),
        (("x = 1 / 0", body("return x")), "wrong", "ZeroDivisionError: division by zero (at `x ="),
        ((body("return 1 / 0 * z"),), "wrong", "division by zero (at `return 1 / 0 * z`)"),
        (("import no_such_module", body("return no_such_module")), "wrong", "ModuleNotFound"),
        ((body("return 'six'"),), "wrong", "not an array of numbers: str"),
        ((body("return {'z': z}"),), "wrong", "not an array of numbers: dict"),
        ((body("raise ValueError('\\ud800' + 'x' * 10**6)"),), "wrong", "ValueError"),
        ((body("return z * 1j"),), "wrong", "not an array of numbers"),
        ((body("return z, None"),), "wrong", "expected shape"),
        (("momentum_step = 5",), "wrong", "not callable"),
        ((body("return momentum_step(gradient, z, velocity, rate, beta)"),), "wrong", "Recursion"),
    ],
)  # fmt: skip
def test_another_answer_gets_its_hint(judged, cells, state, hint):
    verdict = judged(*cells)
    assert verdict.state == state and hint in verdict.hint, verdict


def test_our_own_definitions_stand_in_for_those_that_a_submission_lost(judged):
    exercise = COURSE["01_predictive_coding"][0]
    answer = """
def cross_entropy_energy(model, activities, x, y):
    hidden = prediction_errors(model, activities, x, y)[:-1]
    logits = jax.vmap(model[-1])(activities[-2])
    top = optax.softmax_cross_entropy(logits, y).sum()
    return (0.5 * sum(jnp.sum(e**2) for e in hidden) + top) / x.shape[0]
"""
    assert judged(answer, exercise=exercise).state == "done"
    # Where the submission has its own, that is what the student's check was run with.
    own = "def prediction_errors(model, activities, x, y):\n    return [jnp.zeros(3)] * 3"
    assert "only the cross-entropy" in judged(own, answer, exercise=exercise).hint


# What gets no credit ------------------------------------------------------------------------------

TAMPER = """
import labkit.exercises.core as core
from labkit import check
import numpy
core.expect = check.exercise_0_1 = lambda *a, **k: print("✓ Exercise 0.1")
core._close = lambda *a: True
core.attempt = lambda *a, **k: None
numpy.allclose = numpy.all = numpy.abs = lambda *a, **k: True
"""
ALL_OF_IT = body(*(line for line in TAMPER.strip().splitlines()), "return z, z")
LIVE = {
    "edits the checks": ALL_OF_IT,
    "edits the checks at the top": TAMPER + "\n" + body("core, check, numpy", "return z, z"),
    "prints ✓": body("print('✓ Exercise 0.1 (Remember where you were going)')", "return z, z"),
    "returns what equals everything": """
class Same:
    dtype = float
    __eq__ = __le__ = __lt__ = __ge__ = lambda *a: True
    __array__ = lambda self, *a, **k: 1 / 0
    __sub__ = __rsub__ = __abs__ = __mul__ = lambda self, *a: self
"""
    + body("return Same(), Same()"),
    "raises our own class": body("from labkit.exercises.core import Mistake", "raise Mistake('✓')"),
    "asks the checks for the answer": """
import labkit.check
from labkit.exercises import nb00
seen = []
"""
    + body("expect = nb00.expect", "nb00.expect = lambda got, want, *a, **k: seen.append(want)",
           "nb00.exercise_0_1(lambda *a: 0)", "nb00.expect = expect", "return seen[0]"),
    "floods the output": body("import sys", "for _ in range(300000):", "    print('✓' * 100)",
                              "    sys.stderr.write('x' * 100)", "return z, z"),
    "forges messages": body("import os", "from struct import pack",
                            "said = b'{\"value\": true, \"verdict\": \"done\"}'",
                            "said = pack('<Q', len(said)) + said",
                            "for n in range(3, 64):", "    try:",
                            "        os.write(n, pack('<Q', len(said)) + said)",
                            "    except OSError:", "        pass", "return z, z"),
    "returns too deep a tree": body("for _ in range(5000):", "    z = [z]", "return z"),
}  # fmt: skip


@pytest.mark.parametrize("kind", LIVE)
def test_no_credit_and_the_next_exercise_is_judged_all_the_same(judged, kind):
    assert judged(LIVE[kind]).state == "wrong"
    # whatever was done to the sandbox: a new one, or the same, and no ✓ that is not earned
    assert judged(LIVE[kind], "def mean_energy(energy, points):\n    return 7.0",
                  exercise=SECOND).state == "wrong"  # fmt: skip


def test_some_of_these_fool_a_check_in_their_own_process():
    """Or the test above would show nothing."""
    for kind in ("edits the checks", "asks the checks for the answer"):
        code = f"{LIVE[kind]}\nfrom labkit import check\ncheck.exercise_0_1(momentum_step)"
        done = subprocess.run([sys.executable, "-X", "utf8", "-c", code], capture_output=True,
                              text=True, encoding="utf-8", cwd=ROOT)  # fmt: skip
        assert done.stdout.splitlines()[-1].startswith("✓ Exercise 0.1"), done


DEADLY = {
    "exits": ("import os", "os._exit(0)"),
    "segfaults": ("import ctypes", "ctypes.string_at(0)"),
    "loops": ("while True: pass",),
    "sleeps": ("import time", "time.sleep(1000)"),
    "hoards": (
        "import numpy, time",
        "hoard = []",
        "while True:",
        "    hoard.append(numpy.ones(2**24))",
        "    time.sleep(0.02)",
    ),
    "answers at length": ("import numpy", "return numpy.ones(2**22), z"),
    "starts another that hoards": (
        "import subprocess, sys",
        "subprocess.run([sys.executable, '-c', 'x = bytes(1) * 2**33; input()'])",
        "return z",
    ),
}
SAID = {"exits": "status 0", "segfaults": "status -11", "loops": "more than 6 s",
        "sleeps": "more than 6 s", "hoards": "GiB of memory", "answers at length": "ended",
        "starts another that hoards": "GiB of memory"}  # fmt: skip


@pytest.mark.parametrize("kind", DEADLY)
def test_what_ends_its_sandbox_costs_that_exercise_only(tmp_path, kind):
    path = notebook(tmp_path / "a.ipynb", "import jax, jax.numpy as jnp", body(*DEADLY[kind]),
                    RIGHT_TOO)  # fmt: skip
    began = time.monotonic()
    seconds = 6 if kind in ("loops", "sleeps") else 40
    got = grade.grade(path, COURSE, grade.Limits(seconds, memory=2**30))
    assert got.verdicts["0.1"].state == "wrong"
    if sys.platform != "win32":
        assert SAID[kind] in got.verdicts["0.1"].hint
    assert got.verdicts["0.2"].state == "done", got
    assert time.monotonic() - began < 120


def test_what_a_submission_started_ends_with_it():
    start = """
import subprocess, sys
def answer():
    command = [sys.executable, "-c", "input()"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True).pid
"""
    with grade.Sandbox(grade.LIMITS) as box:
        assert box.ask(("find", [start], [], "answer"), 60)
        started = grade.psutil.Process(int(box.ask(("call", (), {}), 60)))
        assert started.is_running() and started.status() != grade.psutil.STATUS_ZOMBIE
    with contextlib.suppress(grade.psutil.NoSuchProcess):
        assert (
            started.status() == grade.psutil.STATUS_ZOMBIE
        )  # nobody's child waits to be collected


@pytest.mark.skipif(sys.platform == "win32", reason="no resource limits on Windows")
def test_no_file_is_filled(judged, tmp_path):
    target = tmp_path / "full"
    verdict = judged(body(f"open({str(target)!r}, 'w').write('x' * 10000)", "return z, z"))
    assert verdict.state == "wrong"
    assert not target.exists() or target.stat().st_size == 0


# Files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("", "not a notebook"),
        ("print('hello')", "not a notebook"),
        ("[" * 100_000, "not a notebook"),
        ("[1]", "not a notebook"),
        ('{"cells": 3}', "not a notebook"),
        ('{"cells": [{"cell_type": "code"}]}', "not a notebook"),
        ('{"cells": []}', "none of the course's exercises"),
    ],
)
def test_a_file_that_is_no_submission_has_a_row_that_says_so(tmp_path, text, note):
    path = tmp_path / "a.ipynb"
    path.write_text(text, "utf-8")
    got = grade._guarded(path, COURSE, grade.LIMITS)
    assert note in got.note and not got.verdicts
    assert "cannot be read" in grade._guarded(tmp_path / "none.ipynb", COURSE, grade.LIMITS).note


def test_the_notebook_is_told_by_its_setup_cell_or_its_functions():
    assert grade.which(["session.start('03_bidirectional_pc')", RIGHT], COURSE).startswith("03")
    assert grade.which([RIGHT], COURSE) == "00_start_here"
    assert grade.which(["session.start('elsewhere')", "x = 1"], COURSE) is None


def test_solutions_that_come_with_a_notebook_are_nobodys_answer(tmp_path):
    path = notebook(
        tmp_path / "a.ipynb", RIGHT.replace("_step", "_step_solution"), tags=["solution"]
    )
    assert grade.code_cells(path) == []


def test_the_command_writes_one_row_for_each_file(tmp_path):
    folder = tmp_path / "class"
    folder.mkdir()
    notebook(folder / "=anna.ipynb", "import jax, jax.numpy as jnp", RIGHT, RIGHT_TOO)
    notebook(folder / "ben.ipynb", RIGHT.replace("- rate", "+ rate"), STUB.replace("momentum_step",
             "mean_energy"))  # fmt: skip
    (folder / "eve.ipynb").write_text("no", "utf-8")
    table = tmp_path / "class.csv"
    command = [
        sys.executable,
        "-m",
        "labkit.check",
        str(folder),
        "--csv",
        str(table),
        "--jobs",
        "2",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT,
                          env=os.environ | {"PYTHONIOENCODING": "utf-8"})  # fmt: skip
    assert done.returncode == 0, done.stderr
    with open(table, encoding="utf-8-sig", newline="") as file:
        head, anna, ben, eve = csv.reader(file)
    assert head == ["file", "notebook", "ex 0.1", "ex 0.2", "total", "note"]
    assert anna[1:] == ["00_start_here", "1", "1", "2", ""]
    assert ben[1:5] == ["00_start_here", "0", "0", "0"]
    assert ben[5].startswith("0.1: the sign of the gradient") and "0.2: " in ben[5]
    assert eve[1:] == ["", "", "", "0", "this is not a notebook"]
    assert "3 submissions in" in done.stdout


def test_a_cell_of_the_table_is_never_a_formula():
    assert grade._cell("=1+1") == "'=1+1"
    assert grade._cell("a\nb\tc") == "a b c"
    assert grade._cell("half a pair \ud800") == "half a pair ?"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["nowhere.ipynb"], "no such file"), ([".", "--timeout", "0"], "above zero"),
     ([".", "--notebooks", "tests"], "--notebooks FOLDER")],
)  # fmt: skip
def test_a_wrong_command_says_what_to_do(arguments, words, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as stopped:
        grade.main(arguments)
    assert stopped.value.code == 2 and words in capsys.readouterr().err


# Messages -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        3.0, True, np.arange(6).reshape(2, 3), jnp.ones((2, 0)), np.float32(2),
        [jnp.ones(3), (np.zeros(()), [])], (None, jnp.arange(3, dtype=jnp.int8)), None,
    ],
)  # fmt: skip
def test_arrays_arrive_as_they_were(value):
    said, data = grade._understood(sandbox.answer_message(value))
    got = grade._tree(said["value"], data)
    assert jax.tree.structure(got) == jax.tree.structure(value)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(value), strict=True):
        assert np.asarray(b).dtype == a.dtype and np.array_equal(a, b)


def test_bfloat16_arrives_as_numbers():
    said, data = grade._understood(sandbox.answer_message(jnp.ones(2, jnp.bfloat16)))
    assert np.array_equal(grade._tree(said["value"], data), [1, 1])


@pytest.mark.parametrize(
    "described",
    [
        {"array": ["<f4", [10**12]]}, {"array": ["O", [1]]}, {"array": ["<f4", [-1]]}, "x",
        {"array": 3}, {"list": 3}, {"other": "a", "list": []}, {"array": ["<f4", [2**40, 2**40]]},
        {"array": ["nonsense", []]}, [[]], {"array": ["<U4", [1]]}, {"array": [["a"], []]},
    ],
)  # fmt: skip
def test_a_forged_description_is_a_mistake(described):
    with pytest.raises(grade.Mistake, match="cannot be read"):
        grade._tree(described, memoryview(bytes(16)))


@pytest.mark.parametrize(
    "message", [b"", b"1234567", bytes(8), b"\xff" * 8, b"\x02" + bytes(7) + b"[]"]
)
def test_a_forged_message_is_a_mistake(message):
    with pytest.raises(grade.Mistake, match="cannot be read"):
        grade._understood(message)
