"""The process that runs submitted code. It knows no answers: it holds functions, and calls them.

`tools.grading.grade` starts this file as a program, one process for each submission, and asks over
pipes. What it says comes back as JSON and the bytes of arrays, never as a pickle, so that nothing
submitted runs in the grader. Only the standard library is imported before the code to be run.
"""

import ast
import builtins
import collections.abc
import contextlib
import itertools
import json
import linecache
import os
import pickle
import re
import struct
import symtable
import sys
import traceback
import types
from typing import NamedTuple

LARGEST = 16 * 1024 * 1024  # bytes of one message
DEEPEST = 8  # lists in lists


# Messages, in both directions ---------------------------------------------------------------------


def write(stream, payload: bytes) -> None:
    """Send one message: its length, then its bytes."""
    stream.write(struct.pack("<Q", len(payload)) + payload)
    stream.flush()


def read(stream) -> bytes | None:
    """Receive one message; None at the end of the stream, ValueError where it is too long."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    (size,) = struct.unpack("<Q", head)
    if size > LARGEST:
        raise ValueError(f"a message of {size} bytes, more than {LARGEST}")
    payload = stream.read(size)
    return payload if len(payload) == size else None


def reply(**said) -> bytes:
    """What the sandbox says: the length of the JSON, the JSON; `answer_message` adds arrays."""
    header = json.dumps(said).encode()
    return struct.pack("<Q", len(header)) + header


def answer_message(value) -> bytes:
    """Describe a tree of arrays as JSON, and append the arrays' bytes."""
    arrays = []
    header = reply(value=_described(value, arrays))
    return header + b"".join(array.tobytes() for array in arrays)


def _described(value, arrays: list, depth: int = 0):
    import jax
    import numpy as np

    if value is None:
        return None
    if isinstance(value, collections.abc.Iterator):
        value = list(itertools.islice(value, 1000))
    if isinstance(value, (list, tuple)) and depth < DEEPEST:
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_described(part, arrays, depth + 1) for part in value]}
    if isinstance(value, (bool, int, float, np.ndarray, np.generic, jax.Array)):
        with contextlib.suppress(TypeError, ValueError):
            array = np.asarray(value)
            if array.dtype.name == "bfloat16":
                array = array.astype(np.float32)
            if array.dtype.kind in "biuf":
                arrays.append(np.ascontiguousarray(array))
                return {"array": [array.dtype.str, list(array.shape)]}
    return {"other": type(value).__name__}


def describe(error: BaseException) -> str:
    """An exception of a reader's code in one line, with the line of that code where known."""
    here = os.path.dirname(os.path.abspath(__file__))
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "-packages" not in frame.filename and not frame.filename.startswith(here)
    ]
    line = f" (at `{frames[-1].line}`)" if frames and frames[-1].line else ""
    summary = f"{error}".strip().splitlines()
    reason = f": {summary[0]}" if summary else ""
    return f"your code raised {type(error).__name__}{reason}{line}"


# Taking a function out of a notebook --------------------------------------------------------------


class Statement(NamedTuple):
    """One top-level statement: the names it binds and those it needs, in its cell's file."""

    node: ast.stmt
    file: str
    binds: frozenset[str]
    needs: frozenset[str]


class Definitions:
    """What a notebook's cells define, run on demand: a function, what it needs, and no more.

    A name is looked up in the submission up to the exercise, then in our own copy of the notebook
    before the exercise, then in the rest of the submission. Bare expressions (trainings started,
    tables printed) never run; an assignment runs where an answer needs its name.
    """

    def __init__(self, submitted: list[str], ours: list[str]):
        self.submitted, self.broken = _statements(submitted, "your cell")
        self.ours, _ = _statements(ours, "cell")

    def find(self, name: str):
        """The function `name`, or None where the submission does not define it.

        Raises SyntaxError where its cell does not parse, and whatever its definition raises.
        """
        places = [i for i, s in enumerate(self.submitted) if name in s.binds]
        written = [i for i in places if not _is_stub(self.submitted[i].node)]
        if not written:
            for source, error in self.broken:
                if re.search(rf"^\s*(?:def\s+{name}\b|{name}\s*=)", source, re.MULTILINE):
                    raise error
        if not places:
            return None
        place = (written or places)[-1]
        before, after = self.submitted[:place], self.submitted[place + 1 :]
        self._order = [*before[::-1], *self.ours[::-1], *after]
        self._run, self._namespace = set(), {"__name__": "__main__", "__builtins__": builtins}
        for statement in before:
            if "*" in statement.binds:
                self._execute(statement)
        self._execute(self.submitted[place])
        return self._namespace[name]

    def _execute(self, statement: Statement) -> None:
        if id(statement) in self._run:
            return
        self._run.add(id(statement))
        for name in sorted(statement.needs):
            self._provide(name, statement)
        code = compile(ast.Module([statement.node], []), statement.file, "exec")
        exec(code, self._namespace)

    def _provide(self, name: str, asking: Statement) -> None:
        candidates = self._order
        if name in asking.binds and asking in candidates:  # x = f(x) needs an earlier x
            candidates = candidates[candidates.index(asking) + 1 :]
        for statement in candidates:
            if name in statement.binds:
                self._execute(statement)
                return


def _statements(cells: list[str], title: str) -> tuple[list[Statement], list]:
    """The statements of all cells that parse, and (source, SyntaxError) of the others."""
    statements, broken = [], []
    for number, source in enumerate(cells):
        file = f"<{title} {number}>"
        try:
            tree = _parsed(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            broken.append((source, error))
            continue
        lines = source.splitlines(keepends=True)
        linecache.cache[file] = (len(source), None, lines, file)
        for node in itertools.chain.from_iterable(map(_split, tree.body)):
            statements.append(Statement(node, file, *_names(node)))
    return statements, broken


def _parsed(source: str) -> ast.Module:
    """Python, or IPython with its magic and shell lines left out."""
    try:
        return ast.parse(source)
    except SyntaxError:
        return ast.parse(re.sub(r"(?m)^(\s*)[%!?].*$", r"\1pass", source))


def _split(node: ast.stmt):
    """An import of several names as several imports: only those in need are run."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        for alias in node.names:
            part = ast.Import([alias])
            if isinstance(node, ast.ImportFrom):
                part = ast.ImportFrom(node.module, [alias], node.level)
            yield ast.copy_location(part, node)
    else:
        yield node


def _names(node: ast.stmt) -> tuple[frozenset[str], frozenset[str]]:
    """The global names that a statement binds, and those that it needs, now or when called."""
    if isinstance(node, ast.Expr):
        return frozenset(), frozenset()
    if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
        return frozenset("*"), frozenset()
    top = symtable.symtable(ast.unparse(node), "cell", "exec")
    symbols = top.get_symbols()
    binds = {s.get_name() for s in symbols if s.is_assigned() or s.is_imported()}
    needs = {s.get_name() for s in symbols if s.is_referenced()}
    tables = list(top.get_children())
    while tables:
        table = tables.pop()
        tables += table.get_children()
        needs |= {s.get_name() for s in table.get_symbols() if s.is_global() and s.is_referenced()}
    return frozenset(binds), frozenset(needs)


def _is_stub(node: ast.stmt) -> bool:
    """A function whose body is nothing but a docstring, `...` or `pass`."""
    return isinstance(node, ast.FunctionDef) and all(
        isinstance(part, ast.Pass)
        or (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))
        for part in node.body
    )


# The program --------------------------------------------------------------------------------------


class Mistake(Exception):
    """Stands for labkit.check's: functions that a check hands in raise it here."""


class _Silent(types.ModuleType):
    """In place of labkit.check: every name is there, and does nothing."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *arguments, **options: None


def _hide_checks() -> None:
    """Put a silent labkit.check into place: our reference answers are not loaded here."""
    import labkit

    package, core = _Silent("labkit.check"), types.ModuleType("labkit.exercises.core")
    package.__path__, package.core, core.Mistake = [], core, Mistake
    labkit.check = sys.modules["labkit.check"] = package
    sys.modules["labkit.exercises.core"] = core


def _limit(seconds: int) -> None:
    """No core dump, no file with content, so many seconds of processor; not on Windows."""
    try:
        import resource
    except ModuleNotFoundError:
        return
    for name, value in (("CORE", 0), ("FSIZE", 0), ("CPU", seconds)):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))


def main(processor_seconds: int) -> None:
    """Answer the grader's questions until it hangs up; nothing that is printed goes anywhere."""
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    _hide_checks()
    import equinox  # noqa: F401
    import jax

    # As in labkit.session.start, which no submission runs here.
    jax.config.update("jax_default_matmul_precision", "float32")
    _limit(processor_seconds)
    write(answers, reply(ready=True))
    function = None
    while (question := read(questions)) is not None:
        kind, *parts = pickle.loads(question)
        try:
            if kind == "find":
                submitted, ours, name = parts
                function = Definitions(submitted, ours).find(name)
                said = reply(found=function is not None)
            else:
                arguments, options = parts
                said = answer_message(function(*arguments, **options))
        except NotImplementedError:
            said = reply(value=None)
        except Mistake as mistake:
            said = reply(mistake=str(mistake))
        except Exception as error:
            said = reply(mistake=describe(error))
        write(answers, said)


if __name__ == "__main__":
    main(int(sys.argv[1]))
