"""The process that reads a submission and runs its code. It knows no answers.

`tools.grading.grade` starts this program, one process for each submission, and asks over pipes.
What it says is lines of JSON, never a pickle, so that nothing submitted runs in the grader.
"""

import ast
import builtins
import contextlib
import hashlib
import itertools
import json
import os
import pickle
import re
import sys
import traceback
import types
from pathlib import Path

from tools import slice as cut

PARTS = 10_000  # arrays and lists in what an answer returns
LIMITS = {"CORE": 0, "FSIZE": 2**26, "NPROC": 4096}  # of the process: bytes, bytes, number
RUN = re.compile(r"(?m)^%run[ \t]+(?:-i[ \t]+)?(\S+).*$")
SHOWN = re.compile(r"✓ Exercise (\d+\.\d+)")


def described(value, count=None):
    """A tree of arrays for JSON: lists of [kind of number, shape, numbers], as JAX flattens it."""
    import jax
    import numpy as np

    count = count or itertools.count(1)
    if next(count) > PARTS:
        raise ValueError(f"what your code returned has more than {PARTS} parts")
    leaves = jax.tree.leaves(value)
    if value is None or not (len(leaves) == 1 and leaves[0] is value):
        parts = value if isinstance(value, list | tuple) else leaves
        return None if value is None else [described(part, count) for part in parts]
    with contextlib.suppress(Exception):
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            array = array.astype(np.float64)  # as the check in the notebook does
        return {"array": [array.dtype.str, array.shape, array.ravel().tolist()]}
    return {"other": type(value).__name__}


def describe(error: BaseException) -> str:
    """An exception of a reader's code in one line, with the line of that code if known."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f.line for f in frames if f.filename.startswith("<") and f.line]
    line = error.text if isinstance(error, SyntaxError) else lines[-1] if lines else ""
    reason = next(iter(str(error).strip().splitlines()), "")[:300]
    at = f" (at `{line.strip()}`)" if line else ""
    return f"your code raised {type(error).__name__}{reason and ': '}{reason}{at}"


class IPython:
    """In place of what `get_ipython()` returns: writes files, and does nothing else."""

    def run_cell_magic(self, name: str, line: str, body: str) -> None:
        if name in ("writefile", "file"):
            *append, path = line.split()
            with open(path, "a" if append else "w", encoding="utf-8") as file:
                file.write(body)

    def __getattr__(self, name):
        return lambda *arguments, **options: []


class Submission:
    """A submitted notebook, and the function that was taken out of it last."""

    def __init__(self, say):
        self.say, self.free = say, False

    def open(self, file: bytes, helpers: dict[str, bytes], course: dict[str, tuple]) -> dict:
        """Read a notebook; tell which of the course's it is, and what it shows as done.

        It is the one of which it has most checks and functions. `course` has a dictionary of them,
        and our cells, for each notebook.
        """
        for name, content in helpers.items():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_bytes(content)
        cells, shown, self.places = [], set(), {}  # where a check is called with which answer
        try:
            for cell in json.loads(file)["cells"]:
                tags = cell.get("metadata", {}).get("tags", [])
                if cell["cell_type"] == "code" and "solution" not in tags:
                    source = "".join(cell["source"])
                    if magic := re.match(r"%%writefile[ \t]+(\S+)\n", source):
                        helpers[magic[1]] = source[magic.end() :].encode("utf-8", "replace")
                    cells.append(RUN.sub(lambda m: helpers.get(m[1], b"").decode(), source))
                    for output in cell.get("outputs", []):
                        shown.update(SHOWN.findall("".join(output.get("text", ""))))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return {"note": "this is not a notebook"}
        self.found, self.broken = cut.statements(cells, "your cell")
        for i, statement in enumerate(self.found):
            for node in ast.walk(statement.node):
                check = getattr(getattr(node, "func", None), "attr", "")
                if check and node.args and "_solution" not in ast.dump(node.args[0]):
                    self.places.setdefault(check, []).append((i, node.args[0]))
        names = {name for s in self.found for name in s.makes} | self.places.keys()
        count = {n: len(names & {*pairs, *pairs.values()}) for n, (pairs, _) in course.items()}
        notebook = max(count, key=count.get)
        if not count[notebook]:
            return {"note": "none of the course's exercises is in this notebook"}
        self.ours, _ = cut.statements(course[notebook][1], "cell")
        self.known = {ast.dump(s.node) for s in self.ours}
        own = [ast.dump(s.node) for s in self.found if not cut.is_stub(s)]
        own = "".join(text for text in own if text not in self.known).encode("utf-8", "replace")
        there = {check: bool(self.broken) or f in names for check, f in course[notebook][0].items()}
        tries = {check: len(self.places.get(check, ())) or int(there[check]) for check in there}
        return {"notebook": notebook, "shown": sorted(shown), "tries": tries,
                "own": hashlib.sha256(own).hexdigest()}  # fmt: skip

    def find(self, check: str, function: str, before: int, back: int) -> bool:
        """Make the answer that the check got, at its last call or `back` calls before.

        A name means what it meant there, in the submission or in our first `before` cells.
        """
        found = [s for s in self.ours if s.cell < before] + self.found
        position, answer = self.places.get(check, [(len(self.found), None)])[-1 - back]
        answer = answer or ast.parse(function, mode="eval").body
        names = {node.id for node in ast.walk(answer) if isinstance(node, ast.Name)}
        made = {name for s in self.found for name in s.makes if not cut.is_stub(s)}
        for name in names - made:
            for source, error in self.broken:
                if re.search(rf"(?m)^[ \t]*(?:def[ \t]+{name}\b|{name}[ \t]*=)", source):
                    raise error
        if function in names and not any(function in s.makes for s in self.found):
            return False
        failures, failed = [], True
        while failed:  # what fails leaves things as they were, as in a notebook
            main, failed = types.ModuleType("__main__"), False
            sys.modules["__main__"] = main
            for i in sorted(cut.needed(found, names, position + len(found) - len(self.found))):
                self.charge(ast.dump(found[i].node) not in self.known)
                try:
                    exec(found[i].code, vars(main))
                except Exception as error:
                    failures.append((found[i].makes, error))
                    found[i], failed = found[i]._replace(makes=set(), sets=set(), fills=set()), True
            self.charge(True)
        for makes, error in failures:
            if not makes <= vars(main).keys():
                raise error
        self.answer = eval(compile(ast.Expression(answer), "<check>", "eval"), vars(main))
        return True

    def charge(self, charged: bool) -> None:
        """Tell the grader whether what runs now is the submission's own."""
        if self.free is charged:
            self.free = not charged
            self.say({"free": self.free})

    def call(self, arguments: tuple, options: dict):
        """What the answer returns; None for a stub."""
        with contextlib.suppress(NotImplementedError):
            return described(self.answer(*arguments, **options))


def main() -> None:
    """Answer the grader's questions until it hangs up; nothing that is printed goes anywhere."""
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    import equinox  # noqa: F401
    import jax

    jax.config.update("jax_default_matmul_precision", "float32")  # as labkit.session.start does
    sys.path.insert(0, "")
    builtins.display, builtins.get_ipython = lambda *_, **__: None, IPython
    with contextlib.suppress(ModuleNotFoundError, ValueError, OSError):  # no such limits here
        import resource

        for name, most in LIMITS.items():
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))
    if hasattr(os, "register_at_fork"):  # what a submission forks does not answer for it
        pipes = (questions.fileno(), answers.fileno())
        os.register_at_fork(after_in_child=lambda: [os.close(pipe) for pipe in pipes])
    say = lambda message: print(json.dumps(message), file=answers, flush=True)
    submission, said = Submission(say), {"said": "ready"}
    while say(said) is None:
        kind, *parts = pickle.load(questions)
        try:
            said = {"said": getattr(submission, kind)(*parts)}
        except Exception as error:
            own = type(error).__name__ == "Mistake"  # of a function that a check handed in
            said = {"mistake": str(error) if own else describe(error)}


if __name__ == "__main__":
    main()
