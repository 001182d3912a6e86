"""Instant feedback: identities, measured results against their expected range, exercises."""

import datetime
import functools
import json
import os
import tomllib
from collections.abc import Callable
from importlib import resources
from typing import NamedTuple

import jax
import numpy as np

from labkit import data, session
from labkit.check import progress
from labkit.check.sandbox import describe


class CheckFailed(AssertionError):
    """A claim of the notebook does not hold; the message says what was expected and what came."""


class Mistake(Exception):
    """An exercise's answer is wrong; the message names the mistake."""


class NotAttempted(Exception):
    """An exercise's stub still returns None."""


def _leaves(tree) -> list[np.ndarray]:
    return [np.asarray(leaf, dtype=np.float64) for leaf in jax.tree.leaves(tree)]


def _close(got, want, tolerance: float) -> bool:
    """Whether every leaf of `got` has the shape of `want`'s and lies within tolerance.

    The tolerance is relative to the largest entry of the leaf, or absolute below 1.
    """
    got, want = _leaves(got), _leaves(want)
    return len(got) == len(want) and all(
        g.shape == w.shape
        and np.all(np.abs(g - w) <= tolerance * max(1.0, np.abs(w).max(initial=0.0)))
        for g, w in zip(got, want, strict=True)
    )


def that(claim: str, holds: bool, hint: str = "") -> None:
    """Print ✓ and the claim where it holds; raise CheckFailed with the hint where not."""
    if not bool(holds):
        raise CheckFailed(f"✗ {claim}: this does not hold here. {hint}".rstrip())
    print(f"✓ {claim}")


def close(claim: str, got, want, *, tolerance: float = 1e-5, hint: str = "") -> None:
    """Check that two trees of arrays agree within a tolerance relative to their largest entry."""
    if not _close(got, want, tolerance):
        shapes = [[leaf.shape for leaf in _leaves(tree)] for tree in (got, want)]
        if shapes[0] != shapes[1]:
            raise CheckFailed(f"✗ {claim}: shapes {shapes[0]} and {shapes[1]} differ. {hint}")
        gap = max(np.abs(g - w).max() for g, w in zip(_leaves(got), _leaves(want), strict=True))
        raise CheckFailed(
            f"✗ {claim}: the largest difference, {gap:.3g}, is over {tolerance:g}. {hint}"
        )
    print(f"✓ {claim}")


@functools.cache
def _expected() -> dict[str, dict]:
    return tomllib.loads(resources.files("labkit").joinpath("expected.toml").read_text("utf-8"))


def result(name: str, value: float, hint: str = "") -> None:
    """Compare a measured value with its range for the dataset in use; raise CheckFailed outside.

    The ranges stand in `labkit/expected.toml` with the spread over seeds they come from. With
    LABKIT_RESULTS set, appends the value, the dataset, the device and the versions to
    `results.jsonl` in that folder. Raises KeyError for a name that the file does not hold.
    """
    value, dataset = float(value), data.in_use()
    _record(name, value, dataset)
    if name not in _expected():
        raise KeyError(f"labkit/expected.toml has no range for {name!r}; add one for each dataset.")
    entry = _expected()[name]
    if dataset not in entry:
        print(f"· {name} = {_show(value, entry)} (no expected range for {dataset})")
        return
    low, high = entry[dataset]["range"]
    text = f"{name} = {_show(value, entry)}"
    expected = f"expected {_show(low, entry)} to {_show(high, entry)} on {dataset}"
    if not low <= value <= high:
        hint = hint or entry.get("hint", "Did a setting above change? Run the notebook afresh.")
        raise CheckFailed(f"✗ {text}; {expected}. {hint}")
    print(f"✓ {text} ({expected})")


def _show(value: float, entry: dict) -> str:
    return f"{value:.4g} {entry.get('unit', '')}".rstrip()


def _record(name: str, value: float, dataset: str) -> None:
    folder = os.environ.get("LABKIT_RESULTS")
    if not folder:
        return
    line = {
        "name": name,
        "value": value,
        "dataset": dataset,
        "device": session.device(),
        "versions": session.versions(),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "results.jsonl"), "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")  # one write: lines of two notebooks do not mix


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
    progress.TITLES[number] = title

    def decorate(judge: Callable[[Callable], None]) -> Callable[[Callable], None]:
        @functools.wraps(judge)
        def check(answer: Callable) -> None:
            state, hint = verdict(judge, answer)
            if not getattr(answer, "__name__", "").endswith("_solution"):
                progress.note(number, state != "not attempted", state == "done")
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
        if _close(got, want, tolerance):
            return
        for hint, wrong in mistakes.items():
            if _close(got, wrong, tolerance):
                raise Mistake(f"{hint} {_both(got, want)}".rstrip())
        shapes = [[leaf.shape for leaf in _leaves(tree)] for tree in (got, want)]
    except (TypeError, ValueError) as error:
        raise Mistake(f"this is not an array of numbers: {type(got).__name__}") from error
    if shapes[0] != shapes[1]:
        raise Mistake(f"expected shape {_shapes(shapes[1])}, yours has {_shapes(shapes[0])}")
    raise Mistake(f"the value is off. {_both(got, want)}".rstrip())


def _shapes(shapes: list[tuple]) -> str:
    return ", ".join(str(shape) for shape in shapes) if shapes else "nothing"


def _both(got, want) -> str:
    """The two values, where they are single numbers."""
    got, want = _leaves(got), _leaves(want)
    if len(got) == len(want) == 1 and got[0].size == want[0].size == 1:
        return f"(yours {got[0].item():.4f}, expected {want[0].item():.4f} on this input)"
    return ""
