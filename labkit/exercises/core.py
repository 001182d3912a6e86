"""What the checks of all exercises share: call an answer, compare it, name the mistake."""

import functools
import os
import traceback
from collections.abc import Callable
from typing import NamedTuple

from labkit.check import CheckFailed, agree, leaves
from labkit.exercises import summary


class Mistake(Exception):
    """An exercise's answer is wrong; the message names the mistake."""


class NotAttempted(Exception):
    """An exercise's stub still returns None."""


class Verdict(NamedTuple):
    """What a check found: "done", "wrong" or "not attempted"; the hint of a wrong answer."""

    state: str
    hint: str = ""


def verdict(judge: Callable[[Callable], None], answer: Callable) -> Verdict:
    """Judge an answer, whatever it does."""
    if not callable(answer):
        return Verdict("wrong", "give the function itself, not its result, to the check")
    try:
        judge(answer)
    except NotAttempted:
        return Verdict("not attempted")
    except Mistake as mistake:
        return Verdict("wrong", str(mistake))
    except Exception as error:
        return Verdict("wrong", f"what came back cannot be compared ({type(error).__name__})")
    return Verdict("done")


def exercise(number: str, title: str) -> Callable:
    """Make a function that judges an answer into a check that prints, and never raises.

    The judge calls the answer through `attempt` and compares through `expect`, or raises
    `Mistake`. The check prints *not attempted yet*, ✓, or ✗ with the mistake's name, and counts
    the try for `summary`, unless the answer is one of the notebook's own (`..._solution`). Where
    nbgrader runs the notebook, to grade it, whatever is not ✓ raises CheckFailed as well.
    """
    summary.TITLES[number] = title

    def decorate(judge: Callable[[Callable], None]) -> Callable[[Callable], None]:
        @functools.wraps(judge)
        def check(answer: Callable) -> None:
            state, hint = verdict(judge, answer)
            if not getattr(answer, "__name__", "").endswith("_solution"):
                summary.note(number, state != "not attempted", state == "done")
            name = f"Exercise {number} ({title})"
            line = {
                "done": f"✓ {name}",
                "wrong": f"✗ {name}: {hint}",
                "not attempted": f"… {name}: not attempted yet",
            }[state]
            print(line)
            if state != "done" and os.environ.get("NBGRADER_EXECUTION"):
                raise CheckFailed(line)

        check.number, check.title = number, title
        return check

    return decorate


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


def attempt(answer: Callable, *args, **kwargs):
    """Call a reader's answer; None means not attempted, an exception becomes a `Mistake`.

    A `Mistake` raised on the way, by a function that the check hands in, is passed on as it is.
    """
    try:
        value = answer(*args, **kwargs)
    except Mistake:
        raise
    except NotImplementedError as error:
        raise NotAttempted from error
    except Exception as error:
        raise Mistake(describe(error)) from error
    if value is None or (isinstance(value, tuple) and all(part is None for part in value)):
        raise NotAttempted
    return value


def expect(got, want, mistakes: dict[str, object], *, tolerance: float = 2e-3) -> None:
    """Raise the `Mistake` that explains `got`, or return where it equals `want`.

    `mistakes` maps a hint to the value which that mistake gives. The tolerance holds on CPU, GPU
    and TF32; give inputs on which right and wrong lie further apart than that.
    """
    try:
        if agree(got, want, tolerance):
            return
        for hint, wrong in mistakes.items():
            if agree(got, wrong, tolerance):
                raise Mistake(f"{hint} {_both(got, want)}".rstrip())
        shapes = [[leaf.shape for leaf in leaves(tree)] for tree in (got, want)]
    except (TypeError, ValueError) as error:
        raise Mistake(f"this is not an array of numbers: {type(got).__name__}") from error
    if shapes[0] != shapes[1]:
        raise Mistake(f"expected shape {_shapes(shapes[1])}, yours has {_shapes(shapes[0])}")
    raise Mistake(f"the value is off. {_both(got, want)}".rstrip())


def _shapes(shapes: list[tuple]) -> str:
    return ", ".join(str(shape) for shape in shapes) if shapes else "nothing"


def _both(got, want) -> str:
    """The two values, where they are single numbers."""
    got, want = leaves(got), leaves(want)
    if len(got) == len(want) == 1 and got[0].size == want[0].size == 1:
        return f"(yours {got[0].item():.4f}, expected {want[0].item():.4f} on this input)"
    return ""
