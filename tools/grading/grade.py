"""Judge a submitted notebook: our checks, its answers, in two processes.

This one, the grader, holds the checks; nothing submitted runs or is parsed in it. The other
(`sandbox.py`) reads the submission and runs what its answers need. When a check calls the answer,
the arguments travel there, and plain arrays come back. Inputs are drawn anew at each grading.

Enforced everywhere: seconds and memory, and no output. With bubblewrap also: no network; nothing
to be seen but the interpreter, its packages, data and labkit without exercises, all read-only; a
small disk in memory; and the end of everything that a submission has started.
"""

import contextlib
import copyreg
import json
import os
import queue
import re
import shutil
import signal
import site
import stat
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
import platformdirs

import labkit.exercises
from labkit import check, files
from labkit.exercises.core import Mistake, Verdict, verdict
from tools import ROOT, notebooks, read, slice, tags

try:
    import cloudpickle
    import psutil
except ModuleNotFoundError as error:
    raise SystemExit(f"Grading needs {error.name}: pip install cloudpickle psutil") from None

LARGEST, MESSAGE, DISK = 2**27, 2**22, 2**28  # bytes: of a file, of an answer, to write
START, WALL, PROCESSES = 300, 10, 256  # seconds to start in; wall seconds for a charged one; number
CALL = re.compile(r"check\.(exercise_\d+_\d+)\((\w+)\)")
GARBLED = (ValueError, TypeError, KeyError, OverflowError, RecursionError, MemoryError)
LIVE: set["Sandbox"] = set()

cloudpickle.register_pickle_by_value(labkit.exercises)  # the sandbox holds none of it
rewrapped = lambda key: (jax.random.wrap_key_data, (np.asarray(jax.random.key_data(key)),))
copyreg.pickle(type(jax.random.key(0)), rewrapped)


class Exercise(NamedTuple):
    """An exercise: its check, the function asked for, how many of our cells come before it."""

    check: Callable
    function: str
    before: int


class Grade(NamedTuple):
    """One submitted file: the notebook it is, a verdict for each exercise, what else is to say.

    shown: exercises with a ✓ in the stored output. own: a hash of the code that is not ours.
    """

    student: str
    file: str
    note: str = ""
    notebook: str = ""
    verdicts: dict[str, Verdict] = {}
    shown: list[str] = []
    own: str = ""


def course() -> dict[str, tuple[list[Exercise], list[str]]]:
    """The exercises of each of our notebooks, and the sources of cells that answers may need."""
    found = {}
    for path in notebooks():
        exercises, cells = found[path.stem] = [], []
        for cell in read(path).cells:
            if "check" in tags(cell):
                for name, function in CALL.findall(cell.source):
                    exercises.append(Exercise(getattr(check, name), function, len(cells)))
            elif cell.cell_type == "code" and not slice.LEFT_OUT & tags(cell):
                cells.append(cell.source)
    return found


def content(path: Path, largest: int = LARGEST) -> bytes:
    """What a regular file holds; raises ValueError with the reason for anything else."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise ValueError("this is no file, but a link, a pipe or a device")
        with path.open("rb") as file:
            data = file.read(largest + 1)
    except OSError as error:
        raise ValueError(f"this file cannot be read: {error.strerror}") from error
    if len(data) > largest:
        raise ValueError(f"this file has more than {largest // 2**20} MiB")
    return data


class Cage:
    """Where sandboxes run: a copy of labkit without exercises, and the command that encloses it.

    `lacks` says why bubblewrap does not, if so. Nothing in the folders `private` is seen inside.
    """

    def __init__(self, *private: Path):
        self.folder = tempfile.TemporaryDirectory(prefix="labkit-grading-")
        self.stage = Path(self.folder.name)
        hidden = shutil.ignore_patterns("exercises", "__pycache__")
        shutil.copytree(ROOT / "labkit", self.stage / "labkit", ignore=hidden)
        (self.stage / "tools" / "grading").mkdir(parents=True)
        for module in ("tools/slice.py", "tools/grading/sandbox.py"):
            shutil.copy(ROOT / module, self.stage / module)
        data = str(files.folder("LABKIT_DATA", platformdirs.user_cache_dir("labkit")))
        mirror = files.setting("LABKIT_MIRROR")
        kept = ("PATH", "LANG", "SYSTEMROOT", "LABKIT_DATASET", "LABKIT_MIRROR")
        self.environment = {name: os.environ[name] for name in kept if name in os.environ} | {
            "JAX_PLATFORMS": "cpu", "LABKIT_DATA": data, "MPLBACKEND": "agg",
            "PYTHONDONTWRITEBYTECODE": "1", "PYTHONNOUSERSITE": "1", "PYTHONPATH": str(self.stage),
        }  # fmt: skip
        shown = [data, *[mirror[7:]] * mirror.startswith("file:///"), str(self.stage)]
        self.command, self.lacks = ["bwrap", *_enclosure(private, shown)], ""
        try:
            subprocess.run([*self.command, "true"], capture_output=True, check=True, text=True)
        except FileNotFoundError:
            self.command, self.lacks = [], "bubblewrap is not installed"
        except subprocess.CalledProcessError as error:
            self.command, self.lacks = [], f"bubblewrap does not work here: {error.stderr.strip()}"


def _enclosure(private: tuple[Path, ...], shown: list[str]) -> list[str]:
    """bubblewrap's arguments: a system of its own in which only a few folders are to be seen."""

    def bound(*paths):
        return [word for path in paths for word in ("--ro-bind-try", path, path)]

    words = ["--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    for path in map(Path, ("/bin", "/sbin", "/lib", "/lib32", "/lib64")):
        words += ["--symlink", path.readlink(), path] if path.is_symlink() else bound(path)
    python = ["/usr", sys.base_prefix, os.path.realpath(sys.base_prefix), sys.prefix]
    words += bound(*python, "/etc/ld.so.cache")
    for path in (ROOT, *private, *(Path(folder, "labkit") for folder in site.getsitepackages())):
        if path.is_dir() and any(path.is_relative_to(folder) for folder in python):
            words += ["--tmpfs", path]  # the course or the class, where it lies in one of these
    words += bound(sys.prefix) if Path(sys.prefix).is_relative_to(ROOT) else []
    small = ["--size", DISK, "--tmpfs"]
    words += ["--proc", "/proc", "--dev", "/dev", *small, "/dev/shm", *small, "/tmp"]
    return [*map(str, words), *bound(*shown), "--remount-ro", "/", "--chdir", "/tmp"]


class Stopped(Mistake):
    """The sandbox came to an end by the submission's fault."""


class Unjudged(BaseException):
    """The sandbox came to an end, perhaps by the machine's fault."""


class Sandbox:
    """One process of submitted code; `seconds` for an exercise, running or asleep."""

    def __init__(self, cage: Cage, seconds: float, memory: float):
        self.seconds, self.memory, self.ended = seconds, memory, ""
        self.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        home = "/tmp" if cage.command else self.folder.name
        self.process = subprocess.Popen(
            [*cage.command, sys.executable, "-P", cage.stage / "tools" / "grading" / "sandbox.py"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            cwd=self.folder.name, env=cage.environment | {"HOME": home, "TMPDIR": home},
            start_new_session=True,
        )  # fmt: skip
        LIVE.add(self)
        self.charge(free=True)
        try:
            self.ask()
        except Stopped as error:
            raise RuntimeError("a sandbox did not start; does `import equinox` work?") from error

    def charge(self, free: bool = False) -> None:
        """Count the seconds of what follows from zero, unless they are free."""
        self.deadline = time.monotonic() + (START if free else WALL * self.seconds)
        self.free, self.spent, self.used = free, 0.0, self._used()

    def ask(self, *question):
        """What the sandbox answers; raises the Mistake that it says, Stopped, or Unjudged."""
        answers = queue.SimpleQueue()
        threading.Thread(target=self._exchange, args=(question, answers), daemon=True).start()
        while not self.ended:
            try:
                said = answers.get(timeout=0.1)
            except queue.Empty:
                self._watch()
                continue
            if "said" in said:
                return said["said"]
            if "mistake" in said:
                raise Mistake(str(said["mistake"])[:2000])
            self._watch()
            if "free" in said:
                self.free = said["free"] and question[:1] == ("find",)
            elif self.process.poll() is None:
                self.end("what came back cannot be read")
            else:
                code = self.process.returncode
                self.end(f"your code ended Python (exit status {code})")
                if code in (-9, 137):
                    raise Unjudged("something killed Python; is memory short?")
        raise Stopped(self.ended)

    def _exchange(self, question: tuple, answers: queue.SimpleQueue) -> None:
        with contextlib.suppress(*GARBLED, OSError, subprocess.TimeoutExpired):
            if question:
                cloudpickle.dump(question, self.process.stdin)
                self.process.stdin.flush()
            while line := self.process.stdout.readline(MESSAGE):
                said = dict(json.loads(line, object_hook=_array))
                answers.put(said)
                if "free" not in said:
                    return
            self.process.wait(timeout=5)
        answers.put({})  # what came is no message, or the end

    def _used(self) -> tuple[float, float, float, int, bool]:
        """The time; of the process and all it started: seconds, bytes, number, all asleep."""
        seconds, size, family, asleep = 0.0, 0, self._family(), True
        for process in family:
            with contextlib.suppress(psutil.Error), process.oneshot():
                seconds += sum(process.cpu_times()[:4])
                size += process.memory_info().rss
                asleep &= process.status() == psutil.STATUS_SLEEPING
        return time.monotonic(), seconds, size, len(family), asleep

    def _family(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            parent = psutil.Process(self.process.pid)
            return [parent, *parent.children(recursive=True)]
        return []

    def _watch(self) -> None:
        """End the sandbox if it is over a limit."""
        (began, before, *_), self.used = self.used, self._used()
        now, seconds, size, number, asleep = self.used
        if not self.free:
            self.spent += max(0.0, seconds - before) or (now - began) * asleep
        if size > self.memory * 2**30:
            self.end(f"your code took more than {self.memory:g} GiB of memory")
        elif number > PROCESSES:
            self.end(f"your code started more than {PROCESSES} processes")
        elif self.spent > self.seconds:
            self.end(f"your code took more than {self.seconds:g} s")
        elif now > self.deadline:
            self.end("the machine was too busy")
            raise Unjudged(self.ended)

    def end(self, reason: str = "ended") -> None:
        """End the process and what it started."""
        self.ended = self.ended or reason
        LIVE.discard(self)
        family = self._family()
        with contextlib.suppress(OSError, AttributeError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for process in family:
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.process.wait()
        self.folder.cleanup()

    close = end


def _array(said: dict):
    """The array that a part of a message describes; a message itself stays as it is."""
    if "array" not in said:
        return str(said["other"]) if "other" in said else said
    kind, shape, numbers = said["array"]
    if not re.fullmatch(r"[<>|=]?[biuf]\d{1,2}", kind):
        raise ValueError("not an array of numbers")
    return np.array(numbers, kind).reshape(shape)


def grade(student: str, path: Path, helpers: dict, ours: dict, new_sandbox, seed: int) -> Grade:
    """Judge every exercise of any file; each end of a sandbox halves the seconds for the rest."""
    about, verdicts, waiting, late = {}, {}, None, 0
    offered = {name: ({e.check.__name__: e.function for e in exercises}, cells)
               for name, (exercises, cells) in ours.items()}  # fmt: skip
    try:
        data = content(path)
        while waiting != []:
            with contextlib.closing(new_sandbox()) as box:  # again only if a submission ended it
                box.seconds, late = box.seconds / 2**late, late + 1
                box.charge()
                about = box.ask("open", data, helpers, offered)
                if "note" in about:
                    break
                exercises, tries = ours[about["notebook"]][0], about.pop("tries")
                order = sorted(exercises, key=lambda e: tries[e.check.__name__] > 0)
                waiting = waiting or order  # what is absent comes first: it ends no sandbox
                while waiting and not box.ended:
                    exercise = waiting.pop(0)
                    verdicts[exercise.check.number] = judged(exercise, box, tries, seed)
    except (ValueError, Mistake, Unjudged) as error:
        about["note"] = str(error)
    except Exception as error:  # one row lost must not cost the class
        about["note"] = f"could not be graded: {type(error).__name__}: {error}"
    return Grade(student, str(path), verdicts=verdicts, **about)


def judged(exercise: Exercise, box: Sandbox, tries: dict[str, int], seed: int) -> Verdict:
    """The verdict on the answer at the check's last call, or at one before it that is right."""
    results, name = [], exercise.check.__name__
    answer = lambda *arguments, **options: box.ask("call", arguments, options)
    answer.remote = True  # to a check: no gradient comes back
    for back in range(min(3, tries[name]) or 1):
        random = np.random.default_rng([seed, *map(int, exercise.check.number.split("."))])
        box.charge()
        try:
            found = box.ask("find", name, exercise.function, exercise.before, back)
            result = Verdict("wrong", f"there is no function `{exercise.function}`")
            if found:
                result = verdict(exercise.check.judge, answer, random)
        except Mistake as mistake:
            result = Verdict("wrong", str(mistake))
        except Unjudged as reason:
            result = Verdict("not judged", f"could not be judged ({reason}); run it again")
        results.append(result)
        if result.state == "done":
            return result
    return results[0]
