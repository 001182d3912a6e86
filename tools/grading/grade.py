"""Grade a class: `python -m tools.grading FILE...` runs our checks on submitted notebooks.

Two processes for each submission. This one, the grader, holds the checks; submitted code never
runs in it. The other (`sandbox.py`) runs what the submission defines. When a check calls the
answer, its arguments travel to the sandbox and plain arrays come back. Whatever a submission does
to labkit.check, to NumPy or to its own output, it does in its own process.

Enforced: seconds for an exercise, and memory, looked at every 50 ms, for a submission and all that
it starts; no output; except on Windows, seconds of processor, and no file with content. Not cut
off: the network, and whatever else your account may do, such as reading a solution from the disk,
deleting files or ending a process, this one included. A container without network and with
nothing else in it closes that.
"""

import argparse
import concurrent.futures
import contextlib
import csv
import io
import json
import os
import queue
import re
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

import labkit
from labkit import check
from labkit.exercises.core import Mistake, Verdict, verdict
from tools.grading import sandbox

try:
    import cloudpickle
    import psutil
except ModuleNotFoundError as error:
    raise SystemExit(f"Grading needs {error.name}: pip install cloudpickle psutil") from None

ROOT = Path(labkit.__file__).resolve().parent.parent
LARGEST = 32 * 1024 * 1024  # bytes of a submission
START = 120  # seconds for a sandbox to import JAX
CALL = re.compile(r"check\.(exercise_(\d+)_(\d+))\((\w+)\)")
SETUP = re.compile(r"session\.start\([\"'](\w+)[\"']\)")


class Limits(NamedTuple):
    """Seconds for one exercise, and bytes of memory for one submission."""

    seconds: float = 60
    memory: int = 3 * 2**30


LIMITS = Limits()


class Exercise(NamedTuple):
    """One exercise of a notebook: its number, the function asked for, the check, our cells."""

    number: str
    function: str
    judge: Callable
    before: list[str]  # sources of our code cells up to it, solutions left out


class Grade(NamedTuple):
    """One submission: the notebook it is, a verdict for each exercise, a note where needed."""

    file: str
    notebook: str
    verdicts: dict[str, Verdict]
    note: str = ""


# Notebooks ----------------------------------------------------------------------------------------


class NotANotebook(ValueError):
    """The file is no notebook; the message says why."""


def code_cells(path: Path) -> list[str]:
    """Sources of a notebook's code cells without those tagged `solution`.

    Raises NotANotebook for a file that is something else.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise NotANotebook(f"the file has more than {LARGEST} bytes")
        cells = json.loads(path.read_text("utf-8"))["cells"]
        found = []
        for cell in cells:
            if cell["cell_type"] == "code":
                source = cell["source"]
                tags = cell.get("metadata", {}).get("tags", [])
                if "solution" not in tags:
                    found.append(source if isinstance(source, str) else "".join(source))
    except OSError as error:
        raise NotANotebook(f"the file cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, NotANotebook):
            raise
        raise NotANotebook("this is not a notebook") from error
    return found


def course(folder: Path) -> dict[str, list[Exercise]]:
    """The exercises of our own notebooks, by the notebooks' names.

    Raises FileNotFoundError where the folder holds none.
    """
    found = {}
    for path in sorted(folder.glob("[0-9]*.ipynb")):
        cells = code_cells(path)
        found[path.stem] = [
            Exercise(f"{a}.{b}", function, getattr(check, name).__wrapped__, cells[:i])
            for i, cell in enumerate(cells)
            for name, a, b, function in CALL.findall(cell)
        ]
    if not any(found.values()):
        raise FileNotFoundError(f"no notebooks with exercises in {folder}")
    return found


def which(cells: list[str], notebooks: dict[str, list[Exercise]]) -> str | None:
    """The notebook that a submission is: by its setup cell, or by the functions it defines."""
    text = "\n".join(cells)
    for name in SETUP.findall(text):
        if name in notebooks:
            return name
    defined = set(re.findall(r"(?m)^\s*def\s+(\w+)", text))
    counts = {
        name: sum(exercise.function in defined for exercise in exercises)
        for name, exercises in notebooks.items()
    }
    best = max(counts, key=counts.get)
    return best if counts[best] else None


# The other side of the sandbox --------------------------------------------------------------------


class Stopped(Mistake):
    """The sandbox came to an end: time, memory, or the submission ended it."""


class _Pickler(cloudpickle.CloudPickler):
    """cloudpickle, and JAX's random keys as the numbers they consist of."""

    def reducer_override(self, value):
        if isinstance(value, jax.Array):
            if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
                return jax.random.wrap_key_data, (np.asarray(jax.random.key_data(value)),)
            return jax.numpy.asarray, (np.asarray(value),)
        return super().reducer_override(value)


def _pickled(question) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer).dump(question)
    return buffer.getvalue()


class Sandbox:
    """One process of submitted code; `with` ends it, and what it started."""

    def __init__(self, limits: Limits):
        self.limits, self.ended = limits, ""
        self.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        kept = ("PATH", "LANG", "SYSTEMROOT", "LABKIT_DATA", "LABKIT_DATASET")
        environment = {name: os.environ[name] for name in kept if name in os.environ} | {
            "HOME": self.folder.name,
            "JAX_PLATFORMS": "cpu",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": str(ROOT),
        }
        processor_seconds = str(int(START + 20 * limits.seconds) + 1)
        self.process = subprocess.Popen(
            [sys.executable, "-P", sandbox.__file__, processor_seconds],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            cwd=self.folder.name, env=environment, start_new_session=True,
        )  # fmt: skip
        self._questions, self._answers = queue.Queue(), queue.Queue(maxsize=2)
        for work in (self._send, self._receive):
            threading.Thread(target=work, daemon=True).start()
        try:
            self._wait(START)
        except Stopped as error:
            self.folder.cleanup()
            raise RuntimeError("the sandbox did not start; does `import labkit` work?") from error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._end("")
        self.folder.cleanup()

    def _send(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while (question := self._questions.get()) is not None:
                sandbox.write(self.process.stdin, question)

    def _receive(self) -> None:
        answer = b""
        with contextlib.suppress(OSError, ValueError):
            while (answer := sandbox.read(self.process.stdout)) is not None:
                self._answers.put(answer)
        self._answers.put(None)

    def ask(self, question: tuple, seconds: float):
        """Send a question, wait for the answer; raises Stopped, or the Mistake that came back."""
        if self.ended:
            raise Stopped(self.ended)
        self._questions.put(_pickled(question))
        said, arrays = _understood(self._wait(seconds))
        if "mistake" in said:
            raise Mistake(str(said["mistake"]))
        return _tree(said["value"], arrays) if "value" in said else said.get("found") is True

    def _wait(self, seconds: float) -> bytes:
        deadline = time.monotonic() + seconds
        while True:
            try:
                answer = self._answers.get(timeout=0.05)
            except queue.Empty:
                answer = b""
            if answer is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(timeout=5)
                code = self.process.poll()
                self._end(f"your code ended Python (exit status {code})")
            elif self._memory() > self.limits.memory:
                self._end(f"your code took more than {self.limits.memory / 2**30:g} GiB of memory")
            elif answer:
                return answer
            elif time.monotonic() > deadline:
                self._end(f"your code took more than {self.limits.seconds:g} s")
            if self.ended:
                raise Stopped(self.ended)

    def _family(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            parent = psutil.Process(self.process.pid)
            return [parent, *parent.children(recursive=True)]
        return []

    def _memory(self) -> int:
        """Bytes in memory of the process and of those that it started."""
        total = 0
        for process in self._family():
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().rss
        return total

    def _end(self, reason: str) -> None:
        self.ended = self.ended or reason
        if self.process.returncode is None:
            for process in self._family():
                with contextlib.suppress(psutil.Error):
                    process.kill()
            self.process.wait()
        self._questions.put(None)
        while True:  # the receiver may wait for room
            try:
                self._answers.get_nowait()
            except queue.Empty:
                break


def _understood(message: bytes) -> tuple[dict, memoryview]:
    """The JSON of a message, and the bytes after it; a Mistake where it is something else."""
    try:
        (size,) = struct.unpack_from("<Q", message)
        said = json.loads(message[8 : 8 + size])
        if not isinstance(said, dict):
            raise ValueError("not an object")
        return said, memoryview(message)[8 + size :]
    except (struct.error, ValueError, RecursionError) as error:
        raise Mistake("what came back cannot be read") from error


def _tree(described, data: memoryview):
    """Lists, tuples and arrays from their description; something else becomes an `object`."""
    place = 0

    def build(part, depth=0):
        nonlocal place
        if part is None:
            return None
        if depth > sandbox.DEEPEST + 1 or not isinstance(part, dict) or len(part) != 1:
            raise ValueError("not a description")
        ((kind, about),) = part.items()
        if kind in ("list", "tuple"):
            return {"list": list, "tuple": tuple}[kind]([build(p, depth + 1) for p in about])
        if kind == "array":
            dtype, shape = np.dtype(about[0]), tuple(map(int, about[1]))
            if dtype.kind not in "biuf" or min(shape, default=0) < 0:
                raise ValueError("not an array of numbers")
            count = int(np.prod(shape, dtype=object)) if shape else 1
            array = np.frombuffer(data, dtype, count, place) if count else np.empty(0, dtype)
            place += count * dtype.itemsize
            return array.reshape(shape)
        return type(re.sub(r"\W", "", str(about))[:40] or "object", (), {})()

    try:
        return build(described)
    except (TypeError, ValueError, KeyError, IndexError, OverflowError, MemoryError) as error:
        raise Mistake("what came back cannot be read") from error


# Grading ------------------------------------------------------------------------------------------


def grade(path: Path, notebooks: dict[str, list[Exercise]], limits: Limits = LIMITS) -> Grade:
    """Judge every exercise of one submitted notebook, whatever the file is and does."""
    try:
        cells = code_cells(path)
    except NotANotebook as error:
        return Grade(str(path), "", {}, str(error))
    name = which(cells, notebooks)
    if name is None:
        return Grade(str(path), "", {}, "none of the course's exercises is in this notebook")
    verdicts = {}
    waiting = list(notebooks[name])
    while waiting:
        with Sandbox(limits) as box:  # a new one only where a submission has ended its own
            while waiting and not box.ended:
                exercise = waiting.pop(0)
                verdicts[exercise.number] = _judged(exercise, cells, box)
    return Grade(str(path), name, verdicts)


def _judged(exercise: Exercise, cells: list[str], box: Sandbox) -> Verdict:
    deadline = time.monotonic() + box.limits.seconds

    def ask(*question):
        return box.ask(question, deadline - time.monotonic())

    try:
        if not ask("find", cells, exercise.before, exercise.function):
            return Verdict("wrong", f"there is no function `{exercise.function}`")
    except Mistake as mistake:
        return Verdict("wrong", str(mistake))

    def answer(*arguments, **options):
        return ask("call", arguments, options)

    return verdict(exercise.judge, answer)


def grade_all(
    paths: list[Path],
    notebooks: dict[str, list[Exercise]],
    limits: Limits = LIMITS,
    jobs: int = 1,
):
    """Grade many submissions, `jobs` at a time; yields each `Grade` in the order of `paths`."""
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(lambda path: _guarded(path, notebooks, limits), paths)


def _guarded(path, notebooks, limits) -> Grade:
    try:
        return grade(path, notebooks, limits)
    except Exception as error:  # one row lost must not cost the class
        return Grade(str(path), "", {}, f"could not be graded: {type(error).__name__}: {error}")


def table(grades: list[Grade]) -> list[list[str]]:
    """Rows for a spreadsheet: a head, then a row for each file.

    Columns: file, notebook, one for each exercise (1 or 0, empty where the notebook has no such
    exercise), total, and a note that names what is wrong or missing.
    """
    numbers = sorted(
        {n for g in grades for n in g.verdicts}, key=lambda n: tuple(map(int, n.split(".")))
    )
    rows = [["file", "notebook", *[f"ex {number}" for number in numbers], "total", "note"]]
    for one in grades:
        points = {n: int(v.state == "done") for n, v in one.verdicts.items()}
        rows.append(
            [_cell(one.file), one.notebook]
            + [str(points.get(number, "")) for number in numbers]
            + [str(sum(points.values())), _cell(_note(one))]
        )
    return rows


def _note(one: Grade) -> str:
    notes = [one.note] if one.note else []
    for number, (state, hint) in one.verdicts.items():
        if state != "done":
            notes.append(f"{number}: {hint[:300] if state == 'wrong' else state}")
    return "; ".join(notes)


def _cell(text: str) -> str:
    """Text that a spreadsheet shows and does not compute: one line, no formula, valid UTF-8."""
    text = re.sub(r"[\x00-\x1f\x7f]+", " ", text.encode("utf-8", "replace").decode())
    return "'" + text if text.startswith(("=", "+", "-", "@")) else text


def main(arguments: list[str] | None = None) -> None:
    """The command line; see `python -m tools.grading --help`."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.grading",
        description="Grade submitted notebooks: our checks, their answers, each in processes of "
        "its own.",
        epilog="The sandbox limits time, memory and output. It does not cut off the network or "
        "the disk: for submissions that you do not trust, run it in a container.",
    )
    parser.add_argument("files", nargs="+", type=Path, help="notebooks, or folders of notebooks")
    parser.add_argument("--csv", type=Path, help="write one row for each notebook into this file")
    parser.add_argument("--timeout", type=float, default=LIMITS.seconds, metavar="S",
                        help="seconds for one exercise (default %(default)s)")  # fmt: skip
    parser.add_argument("--memory", type=float, default=LIMITS.memory / 2**30, metavar="GIB",
                        help="GiB for one submission (default %(default)g)")  # fmt: skip
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 1) // 2),
                        help="submissions at a time (default: half of the cores)")  # fmt: skip
    parser.add_argument("--notebooks", type=Path, default=ROOT / "notebooks",
                        help="our own notebooks (default: those of this checkout)")  # fmt: skip
    given = parser.parse_args(arguments)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a console may not know ½
    if given.timeout <= 0 or given.memory <= 0 or given.jobs < 1:
        parser.error("--timeout and --memory must be above zero, --jobs at least 1")
    missing = [str(path) for path in given.files if not path.exists()]
    if missing:
        parser.error(f"no such file: {', '.join(missing)}")
    try:
        notebooks = course(given.notebooks)
    except FileNotFoundError as error:
        parser.error(f"{error}; run this in a clone of the repository, or say --notebooks FOLDER")
    paths = [path for given_path in given.files for path in _expanded(given_path)]
    limits, grades = Limits(given.timeout, int(given.memory * 2**30)), []
    began = time.monotonic()
    for one in grade_all(paths, notebooks, limits, given.jobs):
        done = sum(v.state == "done" for v in one.verdicts.values())
        line = f"{_cell(one.file)}: {done} of {len(one.verdicts)}  {_cell(_note(one))}"
        print(line.rstrip(), flush=True)
        grades.append(one)
        if given.csv:  # after each, so that a long run stopped half-way has its rows
            with open(given.csv, "w", encoding="utf-8-sig", newline="") as file:
                csv.writer(file).writerows(table(grades))
    print(f"{len(grades)} submissions in {time.monotonic() - began:.0f} s")


def _expanded(path: Path) -> list[Path]:
    """A folder's notebooks, at any depth; a file is itself."""
    if not path.is_dir():
        return [path]
    found = sorted(path.rglob("*.ipynb"))
    return [file for file in found if ".ipynb_checkpoints" not in file.parts]
