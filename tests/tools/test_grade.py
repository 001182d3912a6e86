"""`python -m tools.grading`: what submissions get, and what they cannot do."""

import ast
import contextlib
import csv
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import psutil
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools import ROOT

pytest.importorskip("cloudpickle")

from tools.grading import __main__ as command
from tools.grading import grade, sandbox

COURSE = grade.course()
FIRST, SECOND, *_ = COURSE["00_start_here"][0]
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
IMPORTS = "import jax, jax.numpy as jnp"
CHECK = "check.exercise_0_1(momentum_step)"


def body(*lines):
    """The function that exercise 0.1 asks for, with this body."""
    head = "def momentum_step(gradient, z, velocity, rate, beta):\n"
    return head + "".join(f"    {line}\n" for line in lines)


def notebook(path, *cells, tags=(), output=""):
    cells = [
        {"cell_type": "code", "metadata": {"tags": list(tags)}, "source": cell,
         "outputs": [{"output_type": "stream", "name": "stdout", "text": output}]}
        for cell in cells
    ]  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cells": cells, "nbformat": 4}), "utf-8")
    return path


@pytest.fixture(scope="module")
def cage():
    return grade.Cage()


@pytest.fixture(scope="module")
def boxes(cage):
    """One sandbox for all submissions that leave theirs alive."""
    kept = []

    def get():
        if not kept or kept[-1].ended:
            kept.append(grade.Sandbox(cage, 60, 3))  # a busy machine must not turn red
        return kept[-1]

    yield get
    for box in kept:
        box.close()


@pytest.fixture
def judged(boxes, tmp_path):
    """The verdict on cells, or on a file with helpers beside it; with inputs from a seed."""

    def judge(*cells, exercise=FIRST, helpers=None, seed=1):
        name = next(n for n, (exercises, _) in COURSE.items() if exercise in exercises)
        pairs = {e.check.__name__: e.function for e in COURSE[name][0]}
        file = cells[0] if isinstance(cells[0], bytes) else notebook(tmp_path / "a.ipynb", *cells)
        file = file if isinstance(file, bytes) else file.read_bytes()
        about = boxes().ask("open", file, helpers or {}, {name: (pairs, COURSE[name][1])})
        return grade.judged(exercise, boxes(), about["tries"], seed)

    return judge


def graded(cage, path, seconds=20, memory=3, seed=1):
    make = lambda: grade.Sandbox(cage, seconds, memory)
    return grade.grade("anna", path, {}, COURSE, make, seed)


# Answers ------------------------------------------------------------------------------------------

# What a reader may do and call right. {answer} is the function asked for, {inner} the same under
# that name; `=> f` makes the answer a function that calls f, `=> x *` one that multiplies by x what
# `inner` returns. A line --- ends a cell. The {check} comes last where a form has none.
FORMS = {
    "plainly": "{answer}",
    "and asks for help": "{answer}\njnp.mean?\n?jnp.sum\njnp.dot??",
    "shows what it has": "{inner}\ndef shown(*a, **k):\n    display(a)\n"
    "    return inner(*a, **k)\n=> shown",
    "calls the shell": "!ls\nfiles = !ls\n{answer}\nfiles.sort()",
    "takes times": "t = %timeit -n1 -r1 -o sum(range(3))\n%matplotlib inline\n{answer}",
    "in a timed cell": "%%time\n{answer}",
    "with a timed line": "%time half = 0.5\nhalf = %time 2 * half\n---\n{inner}\n=> half *",
    "captures": "%%capture said\n{answer}",
    "fills a dictionary": "table = {{}}\n---\n{inner}\ntable['f'] = inner\n=> table['f']",
    "fills a list": "parts = []\n---\n{inner}\nparts.append(inner)\n=> parts[-1]",
    "updates": "table = dict(f=1)\n---\n{inner}\n---\ntable.update(f=inner)\n=> table['f']",
    "sets an attribute": "class C:\n    f = None\n---\n{inner}\nC.f = inner\n=> C.f",
    "by setattr": "class C:\n    f = None\n---\n{inner}\nsetattr(C, 'f', inner)\n=> C.f",
    "counts": "{inner}\ninner.n = 0\ndef counted(*a, **k):\n    inner.n += 1\n"
    "    return inner(*a, **k)\n=> counted",
    "through globals": "{inner}\nfor n in ['one', 'two']:\n    globals()[n] = inner\n=> two",
    "by a global statement": "{inner}\ndef prepare():\n    global chosen\n    chosen = inner\n---\n"
    "prepare()\n=> chosen",
    "registers": "known = {{}}\ndef register(f):\n    known[f.__name__] = f\n    return f\n---\n"
    "@register\n{inner}\n=> known['inner']",
    "plays on": "{answer}\n---\n{check}\n---\ndef {name}(*a, **k):\n    return 7.0",
    "in its check's cell, and plays on": "{answer}\n{check}\n{name} = None",
    "at the second try": "{name} = lambda *a, **k: 7.0\n---\n{check}\n---\n{answer}\n---\n{check}",
    "right, then played and checked": "{answer}\n---\n{check}\n---\n{name} = len\n---\n{check}",
    "under another name": "{inner}\n---\ncheck.{exercise}(inner)",
    "under a lambda": "{inner}\n---\ncheck.{exercise}(lambda *a, **k: inner(*a, **k))",
    "with annotations from the future": "from __future__ import annotations\n---\n{inner}\n"
    "def annotated(*a: Nonsense, **k) -> 'More':\n    return inner(*a, **k)\n=> annotated",
    "from a written file": "%%writefile helper_{name}.py\nimport jax, jax.numpy as jnp\n{inner}\n"
    "---\nimport helper_{name}\n=> helper_{name}.inner",
    "from a file that is run": "%%writefile run_{name}.py\n{inner}\n---\n%run -i run_{name}.py\n"
    "=> inner",
    "from a helper": "from helper import one\n---\n{inner}\n=> one *",
    "from settings": "import json\nwith open('settings.json') as f:\n    one = json.load(f)['one']"
    "\n---\n{inner}\n=> one *",
    "as a tuple with names": "from typing import NamedTuple\nclass Two(NamedTuple):\n    a: object"
    "\n    b: object = ()\n---\n{inner}\ndef named(*a, **k):\n    got = inner(*a, **k)\n"
    "    return Two(*got) if isinstance(got, tuple) else Two(got)\n=> named",
    "as a dictionary": "{inner}\ndef listed(*a, **k):\n    got = inner(*a, **k)\n"
    "    return dict(enumerate(got)) if isinstance(got, tuple) else dict(got=got)\n=> listed",
    "as a module": "import equinox as eqx\nclass Out(eqx.Module):\n    got: object\n---\n{inner}\n"
    "def out(*a, **k):\n    return Out(inner(*a, **k))\n=> out",
    "as NumPy": "import numpy as np\n---\n{inner}\ndef array(*a, **k):\n"
    "    return jax.tree.map(np.asarray, inner(*a, **k))\n=> array",
    "as a partial": "from functools import partial\n---\n{inner}\n---\n{name} = partial(inner)",
    "as an object": "{inner}\nclass Answer:\n    def __call__(self, *a, **k):\n"
    "        return inner(*a, **k)\n---\n{name} = Answer()",
    "before what it needs": "def {name}(*a, **k):\n    return inner(*a, **k)\n---\n{inner}",
    "beside broken cells": "def (:\n---\n1 / 0\n---\n{answer}\n---\nundefined + 1",
    "after a cell that stopped": "one = 1\n---\none = 1 / 0\n---\n{inner}\n=> one *",
    "with a global changed since": "one = 7.0\n---\n{inner}\n=> one *\n---\none = 1.0",
    "if it can": "try:\n    import no_such_module\nexcept ImportError:\n    no_such_module = None\n"
    "---\n{inner}\nif no_such_module is None:\n    {name} = inner",
    "from a star": "from math import *\none = cos(0)\n---\n{inner}\n=> one *",
    "by a loop": "one = 0.0\nfor part in (0.25, 0.75):\n    one += part\n---\n{inner}\n=> one *",
}  # fmt: skip
ANSWERS = {
    FIRST: RIGHT,
    COURSE["04_variational_autoencoder"][0][0]: """
def gaussian_kl(mean_1, log_std_1, mean_2, log_std_2):
    squares = jnp.exp(2 * log_std_1) + (mean_1 - mean_2) ** 2
    return jnp.sum(log_std_2 - log_std_1 + 0.5 * squares / jnp.exp(2 * log_std_2) - 0.5)
""",
}
BESIDE = {"helper.py": b"one = 1.0", "settings.json": b'{"one": 1.0}'}


def cells_of(form, exercise):
    name, check = exercise.function, exercise.check.__name__
    call = f"check.{check}({name})"
    answer = ANSWERS[exercise].strip()
    inner = answer.replace(f"def {name}(", "def inner(")
    head = "\n---\ndef {name}(*a, **k):\n    return "
    text = re.sub(
        r"\n=> (.*) \*", head + r"jax.tree.map(lambda x: \1 * x, inner(*a, **k))", FORMS[form]
    )
    text = re.sub(r"\n=> (.*)", head + r"\1(*a, **k)", text)
    text = text.format(answer=answer, inner=inner, name=name, check=call, exercise=check)
    cells = [IMPORTS, *text.split("\n---\n")]
    return cells if any(f"check.{check}" in cell for cell in cells) else [*cells, call]


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """What a kernel says to cells: whether a check in it prints ✓."""
    folder = tmp_path_factory.mktemp("kernel")
    manager = pytest.importorskip("jupyter_client").manager.KernelManager(kernel_name="python3")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    manager.start_kernel(cwd=str(folder), env=environment)
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=300)
    for name, content in BESIDE.items():
        (folder / name).write_bytes(content)

    def says_done(*cells):
        said = []
        hook = lambda m: said.append(m["content"].get("text", ""))
        for cell in ("%reset -f", "from labkit import check", *cells):
            client.execute_interactive(cell, output_hook=hook, timeout=300)
        return "✓ Exercise" in "".join(said)

    yield says_done
    client.stop_channels()
    manager.shutdown_kernel(now=True)


@pytest.mark.parametrize("exercise", ANSWERS, ids=lambda exercise: exercise.function)
@pytest.mark.parametrize("form", FORMS)
def test_what_a_kernel_calls_right_earns_the_mark(judged, kernel, form, exercise):
    cells = cells_of(form, exercise)
    assert kernel(*cells)  # or the comparison would show nothing
    assert judged(*cells, exercise=exercise, helpers=BESIDE) == ("done", "")


@pytest.mark.parametrize(
    ("cells", "state", "hint"),
    [
        ((RIGHT.replace("- rate", "+ rate"),), "wrong", "you climb"),
        ((RIGHT.replace("beta * ", ""),), "wrong", "β is missing"),
        ((STUB,), "not attempted", ""),
        (("import jax", STUB, RIGHT, STUB), "done", ""),
        ((STUB, CHECK, RIGHT), "done", ""),  # written below its check, which was not run again
        ((body('"""A docstring."""', "raise NotImplementedError()"),), "not attempted", ""),
        ((body("pass"),), "not attempted", ""),
        ((f"z = 1\n{CHECK}",), "wrong", "there is no function `momentum_step`"),
        ((STUB, RIGHT.replace("beta):", "beta)")), "wrong", "SyntaxError: expected ':'"),
        ((body("return undefined_helper(z)"),), "wrong", "'undefined_helper' is not defined"),
        (("x = 1 / 0", body("return x")), "wrong", "ZeroDivisionError: division by zero (at `x ="),
        ((body("return 1 / 0 * z"),), "wrong", "division by zero (at `return 1 / 0 * z`)"),
        (("import no_such_module", body("return no_such_module")), "wrong", "ModuleNotFound"),
        ((body("return 'six'"),), "wrong", "not an array of numbers"),
        ((body("raise ValueError('\\ud800' + 'x' * 10**6)"),), "wrong", "ValueError"),
        ((body("return z, None"),), "wrong", "is None"),
        (("momentum_step = 5",), "wrong", "not callable"),
        ((body("return momentum_step(gradient, z, velocity, rate, beta)"),), "wrong", "Recursion"),
    ],
)  # fmt: skip
def test_another_answer_gets_its_hint(judged, cells, state, hint):
    verdict = judged(*cells)
    assert verdict.state == state and hint in verdict.hint, verdict


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_a_notebook_in_another_encoding_is_read(judged, tmp_path, encoding):
    text = notebook(tmp_path / "b.ipynb", RIGHT + "\n# β").read_text("utf-8")
    assert judged(text.encode(encoding)).state == "done"


def test_our_own_definitions_stand_in_for_those_that_a_submission_lost(judged):
    exercise = COURSE["01_predictive_coding"][0][0]
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
    hint = judged(own, answer, exercise=exercise).hint
    assert "‖ε₁‖²" in hint and "missing" in hint


def test_an_answer_can_load_the_course_s_data(judged, monkeypatch):
    lines = ("from labkit import data", "images = data.load('digits').test_images",
             "velocity = beta * velocity - rate * gradient(z) + 0 * images.sum()",
             "return z + velocity, velocity")  # fmt: skip
    assert judged(body(*lines)).state == "done"


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
LIVE = {
    "edits the checks": TAMPER + "\n" + body("core, check, numpy", "return z, z"),
    "prints ✓": body("print('✓ Exercise 0.1 (Remember where you were going)')", "return z, z"),
    "returns what equals everything": """
class Same:
    dtype = float
    __eq__ = __le__ = __lt__ = __ge__ = lambda *a: True
    __array__ = lambda self, *a, **k: 1 / 0
    __sub__ = __rsub__ = __abs__ = __mul__ = lambda self, *a: self
"""
    + body("return Same(), Same()"),
    "asks the checks for the answer": """
import labkit.check
from labkit.exercises import nb00
seen = []
"""
    + body("expect = nb00.expect", "nb00.expect = lambda got, want, *a, **k: seen.append(want)",
           "nb00.exercise_0_1(lambda *a: 0)", "nb00.expect = expect", "return seen[0]"),
    "runs our solution": body(
        "import json", f"cells = json.load(open({str(ROOT / 'notebooks/00_start_here.ipynb')!r}))",
        "own = {}", "for cell in cells['cells']:",
        "    if 'def momentum_step_solution' in ''.join(cell['source']):",
        "        exec(''.join(cell['source']).partition('check.')[0], own)",
        "return own['momentum_step_solution'](gradient, z, velocity, rate, beta)"),
    "floods the output": body("import sys", "for _ in range(300000):", "    print('✓' * 100)",
                              "    sys.stderr.write('x' * 100)", "return z, z"),
    "forges messages": body("import os, json", "said = json.dumps({'value': True, 'found': True})",
                            "for n in range(3, 64):", "    try:",
                            "        os.write(n, said.encode() + b'\\n')",
                            "    except OSError:", "        pass", "return z, z"),
    "returns too deep a tree": body("for _ in range(5000):", "    z = [z]", "return z"),
    "returns too many": body("return [object()] * 700_000"),
    "returns too much": body("import numpy", "return numpy.ones(2**22), z"),
}  # fmt: skip


@pytest.mark.parametrize("kind", LIVE)
def test_no_credit_and_the_next_exercise_is_judged_all_the_same(judged, kind):
    assert judged(LIVE[kind]).state == "wrong"
    # whatever was done to the sandbox: a new one, or the same, and no ✓ that is not earned
    assert judged(LIVE[kind], "def mean_energy(energy, points):\n    return 7.0",
                  exercise=SECOND).state == "wrong"  # fmt: skip


def test_some_of_these_fool_a_check_in_their_own_process():
    """Or the test above would show nothing."""
    for kind in ("edits the checks", "runs our solution"):
        code = f"{LIVE[kind]}\nfrom labkit import check\ncheck.exercise_0_1(momentum_step)"
        done = subprocess.run([sys.executable, "-X", "utf8", "-c", code], capture_output=True,
                              text=True, encoding="utf-8", cwd=ROOT)  # fmt: skip
        assert done.stdout.splitlines()[-1].startswith("✓ Exercise 0.1"), done


def test_what_was_right_on_other_inputs_is_wrong(boxes, tmp_path):
    """The expected values that a check prints are those of its own inputs, and earn nothing."""
    for who, path, _ in command.tried(tmp_path):
        for exercise in COURSE[path.stem.split()[0]][0] if who == "solutions" else ():
            name, came = exercise.check.__name__, []
            offered = {"this": ({name: exercise.function}, COURSE[path.stem.split()[0]][1])}
            boxes().ask("open", path.read_bytes(), {}, offered)
            assert boxes().ask("find", name, exercise.function, exercise.before, 0)

            def answer(*args, came=came, **options):
                came.append(boxes().ask("call", args, options))
                return came[-1]

            def verdict(answer, seed, exercise=exercise):
                random, answer.remote = np.random.default_rng(seed), True
                return grade.verdict(exercise.check.judge, answer, random).state

            assert verdict(answer, 1) == "done"
            for seed, state in ((1, "done"), (2, "wrong")):
                replay = iter(came * 9)
                assert verdict(lambda *_, r=replay, **__: next(r), seed) == state, name


DEADLY = {
    "exits": ("import os", "os._exit(0)"),
    "segfaults": ("import ctypes", "ctypes.string_at(0)"),
    "loops": ("while True: pass",),
    "sleeps": ("import time", "time.sleep(1000)"),
    "closes everything": ("import os", "os.closerange(0, 99)", "while True: pass"),
    "hoards": (
        "import numpy, time",
        "hoard = []",
        "while True:",
        "    hoard.append(numpy.ones(2**24))",
        "    time.sleep(0.02)",
    ),
    "starts another that hoards": (
        "import subprocess, sys",
        "subprocess.run([sys.executable, '-c', 'x = bytes(1) * 2**33; input()'])",
        "return z",
    ),
    "starts very many": ("import os, time", "while True:", "    os.fork()", "    time.sleep(0.1)"),
    "says that all is free": (
        "import contextlib, os",
        "for n in range(3, 64):",
        "    with contextlib.suppress(OSError):",
        "        os.write(n, b'{\"free\": true}\\n')",
        "while True: pass",
    ),
}
SAID = {"exits": "status 0", "segfaults": "exit status", "loops": "more than 3 s",
        "sleeps": "more than 3 s", "closes everything": "", "hoards": "GiB of memory",
        "starts another that hoards": "GiB of memory", "starts very many": "",
        "says that all is free": "more than 3 s"}  # fmt: skip


@pytest.mark.parametrize("kind", DEADLY)
def test_what_ends_its_sandbox_costs_that_exercise_only(cage, tmp_path, kind):
    path = notebook(tmp_path / "a.ipynb", IMPORTS, body(*DEADLY[kind]), RIGHT_TOO)
    seconds = 3 if "3 s" in SAID[kind] else 20
    before = running(str(cage.stage))
    got = graded(cage, path, seconds, memory=1.5)
    assert got.verdicts["0.1"].state == "wrong"
    assert SAID[kind] in got.verdicts["0.1"].hint
    assert got.verdicts["0.2"].state == "done", got
    if not cage.lacks:
        assert ended(str(cage.stage), before)


def test_a_file_costs_twice_its_limit_at_most(cage, tmp_path):
    loops = [f"def {e.function}(*_, **__):\n    while True: pass" for e in (FIRST, SECOND)]
    got = graded(cage, notebook(tmp_path / "a.ipynb", *loops), seconds=4)
    said = [verdict.hint for verdict in got.verdicts.values()]
    assert said == ["your code took more than 4 s", "your code took more than 2 s"]


def test_what_is_not_there_starts_no_second_sandbox(cage, tmp_path):
    made = []
    path = notebook(tmp_path / "a.ipynb", body("while True: pass"))
    make = lambda: made.append(grade.Sandbox(cage, 2, 3)) or made[-1]
    got = grade.grade("anna", path, {}, COURSE, make, 1)
    assert "more than 2 s" in got.verdicts["0.1"].hint and len(made) == 1
    assert "no function" in got.verdicts["0.2"].hint


def test_time_that_is_not_charged_ends_too(cage, tmp_path, monkeypatch):
    monkeypatch.setattr(grade, "WALL", 1.5)
    spin = "def spin(f):\n" + "".join(f"    {line}\n" for line in DEADLY["says that all is free"])
    path = notebook(tmp_path / "a.ipynb", IMPORTS, spin, "@spin\n" + RIGHT.strip(), RIGHT_TOO)
    got = graded(cage, path, seconds=12)
    assert got.verdicts["0.1"].state == "not judged" and "busy" in got.verdicts["0.1"].hint
    assert got.verdicts["0.2"].state == "done"


def running(mark):
    """The processes that have a word in their command: the folder of a cage, or a number."""
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if mark in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.add(process)
    return found


def ended(mark, before=frozenset()):
    """Whether all that was started since ends; the system takes a moment for it."""
    for _ in range(100):
        if not running(mark) - before:
            return True
        time.sleep(0.1)
    return False


class Listener(BaseHTTPRequestHandler):
    heard = []

    def do_GET(self):
        self.heard.append(self.path)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


ATTACKS = {  # statements that return True if they do what they must not be able to
    "read the solutions": "return 'momentum_step_solution' in open({root!r} + "
    "'/notebooks/00_start_here.ipynb').read()",
    "read the checks": "return bool(open({root!r} + '/labkit/exercises/nb00.py').read())",
    "import the checks": "import labkit.exercises.nb00\nreturn True",
    "read another's work": "return bool(open({other!r}).read())",
    "change our files": "import mmap\nwith open({root!r} + '/labkit/check.py', 'r+b') as f:\n"
    "    mmap.mmap(f.fileno(), 0).flush()\nreturn True",
    "change its own labkit": "import labkit\nopen(labkit.__file__, 'a').write('#')\nreturn True",
    "write the table": "open({other!r} + '.csv', 'w')\nreturn True",
    "use the network": "import urllib.request as u\n"
    "return u.urlopen('http://127.0.0.1:{port}/x', timeout=5).status == 200",
    "see other processes": "import os\nreturn sum(p.isdigit() for p in os.listdir('/proc')) > 9",
    "end the grader": "import os, signal\nos.kill({pid}, 0)\nreturn True",
    "write to the grader's output": "open('/proc/{pid}/fd/1', 'w')\nreturn True",
    "fill the disk": "for n in range(99):\n"
    "    open(f'/tmp/{{n}}', 'wb').write(bytes(2**25))\nreturn True",
    "fill the memory by files": "for n in range(99):\n"
    "    open(f'/dev/shm/{{n}}', 'wb').write(bytes(2**25))\nreturn True",
    "become somebody": "import os\nos.setuid(1)\nreturn True",
    "mount": "import subprocess\n"
    "return subprocess.run(['mount', '-t', 'tmpfs', 'x', '/usr']).returncode == 0",
    "read our environment": "import os\nreturn 'SECRET' in os.environ",
}


@pytest.fixture(scope="module")
def enclosed(cage):
    if cage.lacks:
        pytest.skip(cage.lacks)  # .ci/run installs bubblewrap, and asks for no skip
    return cage


@pytest.mark.parametrize("kind", ATTACKS)
def test_an_attack_fails_under_bubblewrap_and_works_without(
    enclosed, tmp_path_factory, kind, monkeypatch
):
    other = tmp_path_factory.mktemp("other") / "b.ipynb"
    other.write_text("classmate")
    server = HTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    given = {"root": str(ROOT), "other": str(other), "port": server.server_port, "pid": os.getpid()}
    text = ATTACKS[kind].format(**given)
    program = "def attack():\n" + "".join(f"    {line}\n" for line in text.splitlines())
    program = (
        f"{program}try:\n    print(attack())\nexcept BaseException as e:\n    print(repr(e))\n"
    )
    monkeypatch.setenv("SECRET", "of the lecturer's shell")
    home = {"HOME": "/tmp", "TMPDIR": "/tmp"}
    run = lambda *words, **more: subprocess.run(
        [*words, sys.executable, "-c", program], capture_output=True, text=True, **more
    ).stdout.strip()
    assert run(*enclosed.command, env=enclosed.environment | home) != "True"
    harmless = {"fill the disk", "fill the memory by files", "become somebody", "mount",
                "change its own labkit"}  # fmt: skip
    if kind not in harmless:  # or the test would show nothing
        assert run(cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}) == "True"
    server.shutdown()


@pytest.mark.parametrize(
    "fork",
    ["subprocess.Popen(['sleep', '4242'], start_new_session=True)",
     "os.fork() or (os.setsid(), os.fork() or os.execlp('sleep', 'sleep', '4242'))"],
)  # fmt: skip
def test_what_a_submission_started_ends_with_it(enclosed, tmp_path, fork):
    path = notebook(tmp_path / "a.ipynb", "import os, subprocess, time",
                    body(fork, "time.sleep(0.5)", "os._exit(0)"))  # fmt: skip
    assert "exit status 0" in graded(enclosed, path).verdicts["0.1"].hint
    assert ended("4242")


def test_a_fork_does_not_answer_for_its_parent(cage, tmp_path):
    fork = body(
        "import os", "os.fork() or (os.setsid(), os.fork() or time.sleep(4242))", "return z"
    )
    got = graded(cage, notebook(tmp_path / "a.ipynb", "import time", IMPORTS, fork, RIGHT_TOO))
    assert (got.verdicts["0.1"].state, got.verdicts["0.2"].state) == ("wrong", "done")


# Files --------------------------------------------------------------------------------------------


def a_file(path, kind):
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "elsewhere":
        path.symlink_to(ROOT / "notebooks" / "00_start_here.ipynb")
    elif kind == "folder":
        path.mkdir()
    elif kind == "too large":
        with path.open("wb") as file:
            file.truncate(grade.LARGEST + 1)
    elif kind != "none":
        path.write_bytes(kind)
    return path


@pytest.mark.parametrize(
    ("kind", "note"),
    [
        (b"", "not a notebook"), (b"print('hello')", "not a notebook"), (b"[1]", "not a notebook"),
        (b"[" * 100_000, "not a notebook"), (b'{"cells": 3}', "not a notebook"),
        (b'{"cells": [{"cell_type": "code"}]}', "not a notebook"),
        (b'{"cells": []}', "none of the course's exercises"), ("none", "cannot be read"),
        ("fifo", "no file, but"), ("device", "no file, but"), ("elsewhere", "no file, but"),
        ("folder", "no file, but"), ("too large", "more than 128 MiB"),
        (b'{"cells": [{"cell_type": "code", "source": "' + b"\\n" * 10**6 + b'"}]}', "none of the"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_submission_has_a_row_that_says_so(cage, tmp_path, kind, note):
    got = graded(cage, a_file(tmp_path / "a.ipynb", kind))
    assert note in got.note and not got.verdicts


def test_solutions_that_come_with_a_notebook_are_nobodys_answer(cage, tmp_path):
    renamed = RIGHT.replace("_step", "_step_solution")
    call = "check.exercise_0_1(momentum_step_solution)"
    notebook(tmp_path / "a.ipynb", renamed, call)
    notebook(tmp_path / "b.ipynb", RIGHT, tags=["solution"])
    for path in tmp_path.glob("*.ipynb"):
        assert "none of the course's exercises" in graded(cage, path).note


# The command --------------------------------------------------------------------------------------


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "tools.grading", *map(str, arguments)], capture_output=True,
        text=True, cwd=ROOT, env=os.environ | {"PYTHONIOENCODING": "utf-8"}, **options,
    )  # fmt: skip


def test_a_class_has_a_row_a_student_and_a_page(tmp_path):
    moodle = tmp_path / "class" / "Anna Ä_123_assignsubmission_file_"
    right = RIGHT.replace("z +", "one * z +")
    notebook(moodle / "00.ipynb", "from helper import one", IMPORTS, right, RIGHT_TOO)
    (moodle / "helper.py").write_text("one = 1.0")
    notebook(moodle / "04.ipynb", IMPORTS, ANSWERS[COURSE["04_variational_autoencoder"][0][0]])
    climbs = RIGHT.replace("- rate", "+ rate")
    notebook(tmp_path / "class" / "=ben" / "a.ipynb", climbs, CHECK, output="✓ Exercise 0.1 (Rem")
    notebook(tmp_path / "class" / "cleo.ipynb", climbs + "x = '<script>'", CHECK)
    for name in ("eve", "e.ve", "e ve"):
        (tmp_path / "class" / name).mkdir()
        (tmp_path / "class" / name / "lab.pdf").write_text("no")
    table, pages = tmp_path / "class" / "class.csv", tmp_path / "class" / "pages"
    for _ in range(2):  # the second time the table and the pages are there, and no submissions
        done = run(tmp_path / "class", "--csv", table, "--feedback", pages, "--jobs", "2")
        assert done.returncode == 0, done.stderr
    with open(table, encoding="utf-8-sig", newline="") as file:
        head, *rows = csv.reader(file)
    rows = {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}
    assert list(rows) == ["'=ben", "Anna Ä (123)", "cleo", "e ve", "e.ve", "eve"]
    stars = [e.check.stars for e in (FIRST, SECOND)]
    heads = [f"0.1 (of {stars[0]})", f"0.2 (of {stars[1]})"]
    assert head[1:3] == heads and head[-3:] == ["total", "maximum", "note"]
    anna, ben = rows["Anna Ä (123)"], rows["'=ben"]
    assert [anna[h] for h in heads] == [str(s) for s in stars]
    first = COURSE["04_variational_autoencoder"][0][0].check
    assert anna["total"] == str(sum(stars) + first.stars) and anna[f"4.1 (of {first.stars})"] != "0"
    assert ben["total"] == "0" and ben["maximum"] == anna["maximum"]
    assert "you climb" in ben["note"] and "look at this one" in ben["note"]
    assert "the same code as" not in anna["note"]
    assert rows["eve"]["note"] == "lab.pdf: this is not a notebook" and rows["eve"][heads[0]] == ""
    assert len(list(pages.glob("*.html"))) == 6
    page = (pages / "Anna_Ä_123_.html").read_text("utf-8")
    assert "✓ 0.1" in page and "✗ 4.2" in page
    seed = re.search(r"--seed (\d+)", done.stdout)[1]
    assert f"seed {seed}" in page


def test_who_handed_in_is_told_by_folders_and_names(tmp_path):
    names = ["submitted/anna/lab/x.ipynb", "ben/deep/y.ipynb", "cleo.ipynb",
             "Ed X_9_assignsubmission_file_z.ipynb", "dan/submitted/anna/z/x.ipynb",
             "__MACOSX/._x.ipynb"]  # fmt: skip
    for name in names:
        notebook(tmp_path / name, "1")
    who = {str(p.relative_to(tmp_path)): who for who, p, _ in command.handed_in(tmp_path, set())}
    assert [who[name] for name in names] == ["anna", "ben", "cleo", "Ed X (9)", "dan", "__MACOSX"]
    for folder in ("submitted", "submitted/anna"):
        assert {who for who, *_ in command.handed_in(tmp_path / folder, set())} == {"anna"}


def test_a_cell_of_the_table_is_never_a_formula():
    assert command.cell("=1+1") == "'=1+1" and command.cell("\n=1") == "'=1"
    assert command.cell("a\nb\tc\x9b\u202ed") == "a b c d"
    assert command.cell("half a pair \ud800") == "half a pair ?"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["nowhere.ipynb"], "no such file"), (["README.md", "--seconds", "0"], "above zero"),
     ([], "nothing to grade"), (["empty"], "nothing to grade"),
     (["README.md", "--csv", "link"], "is a link")],
)  # fmt: skip
def test_a_wrong_command_says_what_to_do(arguments, words, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "README.md").touch()
    (tmp_path / "link").symlink_to("README.md")
    with pytest.raises(SystemExit) as stopped:
        command.main(arguments)
    assert stopped.value.code == 2 and words in capsys.readouterr().err


def test_hostile_files_cost_their_limit_and_ctrl_c_ends_at_once(tmp_path):
    for n in range(4):
        notebook(tmp_path / f"good{n}.ipynb", IMPORTS, RIGHT, RIGHT_TOO)
    notebook(tmp_path / "loops.ipynb", body("while True: pass"), RIGHT_TOO)
    a_file(tmp_path / "fifo.ipynb", "fifo")
    a_file(tmp_path / "zero.ipynb", "device")
    table = tmp_path / "class.csv"
    done = run(tmp_path, "--csv", table, "--jobs", "2", "--seconds", "3")
    assert done.returncode == 0
    rows = {row[0]: row for row in csv.reader(table.open(encoding="utf-8-sig"))}
    assert len(rows) == 8 and all(rows[f"good{n}"][-3] == rows["good0"][-2] for n in range(4))
    assert "more than 3 s" in rows["loops"][-1] and "no file" in rows["fifo"][-1]
    table.unlink()
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.grading", tmp_path, "--csv", table, "--seconds", "600"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(tmp_path)},
    )  # fmt: skip
    process.stdout.readline()  # a row
    rows = len(list(csv.reader(table.open(encoding="utf-8-sig"))))
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130 and rows >= 2
    assert ended(str(tmp_path))
    assert len(list(csv.reader(table.open(encoding="utf-8-sig")))) >= rows


# Messages -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        3.0, True, np.arange(6).reshape(2, 3), jnp.ones((2, 0)), np.float32(2), 2**40,
        [jnp.ones(3), [np.zeros(()), []]], [None, jnp.arange(3, dtype=jnp.int8)], None,
        np.array([np.nan, np.inf, 1e-300]), jnp.float32(0.1),
    ],
)  # fmt: skip
def test_arrays_arrive_as_they_were(value):
    got = json.loads(json.dumps(sandbox.described(value)), object_hook=grade._array)
    assert jax.tree.structure(got) == jax.tree.structure(value)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(value), strict=True):
        assert np.asarray(b).dtype == a.dtype and np.array_equal(a, b, equal_nan=True)


def test_bfloat16_arrives_as_numbers():
    described = sandbox.described({"a": jnp.ones(2, jnp.bfloat16)})
    assert np.array_equal(grade._array(described[0]), [1, 1])


@pytest.mark.parametrize(
    "described",
    [["<f4", [10**12], [1]], ["O", [1], [1]], 3, ["nonsense", [], 1],
     ["<U4", [1], ["a"]], [["a"], [], 1], ["<f4", [1], [[1], [2, 3]]], ["<f4", [1], ["a"]]],
)  # fmt: skip
def test_a_forged_description_is_no_array(described):
    with pytest.raises(grade.GARBLED):
        grade._array({"array": described})


def test_the_grade_extra_is_all_that_the_grader_imports():
    """So the container's line works: it installs that extra and nothing else."""
    wanted, known = ["labkit[grade]"], set()
    while wanted:
        needs = Requirement(wanted.pop())
        for extra in needs.extras | {""}:
            if (needs.name, extra) not in known:
                known.add((needs.name, extra))
                for text in metadata.requires(needs.name) or ():
                    inner = Requirement(text)
                    if inner.marker is None or inner.marker.evaluate({"extra": extra}):
                        wanted.append(text)
    run = "import json, sys, tools.grading.__main__; print(json.dumps([m.__file__ for n, m in"
    run += " sys.modules.items() if n.split('.')[0] in ('labkit', 'tools')]))"
    printed = subprocess.run([sys.executable, "-c", run], cwd=ROOT, capture_output=True, check=True)
    imported = set()
    for file in json.loads(printed.stdout):
        for line in ast.parse(Path(file).read_text("utf-8")).body:
            names = [a.name for a in line.names] if isinstance(line, ast.Import) else []
            names += [line.module] if isinstance(line, ast.ImportFrom) else []
            imported |= {name.split(".")[0] for name in names}
    owners = metadata.packages_distributions()
    installed = {canonicalize_name(name) for name, _ in known}
    assert not [
        name
        for name in imported & owners.keys() - {"tools"}
        if installed.isdisjoint(map(canonicalize_name, owners[name]))
    ]
