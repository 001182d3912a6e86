"""Say ✓ or ✗ to a claim: `close`, `that`, `result`; `exercise_4_2` judges an answer to it.

An exercise's check lives in `labkit/exercises`, and is found there when it is asked for.
"""

import datetime
import functools
import importlib
import importlib.util
import json
import re
import sys
import tomllib
from collections.abc import Callable
from importlib import resources

import jax
import numpy as np

from labkit import data, files, session


class CheckFailed(AssertionError):
    """A claim of the notebook does not hold; the message says what was expected and what came."""


def __getattr__(name: str) -> Callable:
    """`exercise_4_2` is the check of exercise 4.2; `summary` tells which exercises are done."""
    found = re.fullmatch(r"exercise_(\d+)_\d+|summary", name)
    module = f"labkit.exercises.{f'nb{int(found[1]):02}' if found[1] else name}" if found else ""
    if found and importlib.util.find_spec(module):
        return getattr(importlib.import_module(module), name)
    raise AttributeError(f"labkit.check has no {name!r}")


def right(number: str) -> bool:
    """Whether the reader's answer to an exercise has its ✓, so that later cells can use it."""
    name = "labkit.exercises.summary"  # not there where a grader runs the cell
    return bool(importlib.util.find_spec(name)) and importlib.import_module(name).right(number)


def say(line: str) -> None:
    """Print a line; where the terminal cannot write ✓, in the characters that it has."""
    try:
        print(line)
    except UnicodeEncodeError:
        plain = line.replace("✓", "[right]").replace("✗", "[wrong]").replace("…", "...")
        print(plain.encode(sys.stdout.encoding, "replace").decode(sys.stdout.encoding))


def leaves(tree) -> list[np.ndarray]:
    return [np.asarray(leaf, dtype=np.float64) for leaf in jax.tree.leaves(tree)]


def agree(got, want, tolerance: float) -> bool:
    """Whether every leaf of `got` has the shape of `want`'s and lies within tolerance.

    The tolerance is relative to the largest entry of the leaf, or absolute below 1.
    """
    got, want = leaves(got), leaves(want)
    return len(got) == len(want) and all(
        g.shape == w.shape
        and np.all(np.abs(g - w) <= tolerance * max(1.0, np.abs(w[np.isfinite(w)]).max(initial=0)))
        for g, w in zip(got, want, strict=True)
    )


def that(claim: str, holds: bool, hint: str = "") -> None:
    """Print ✓ and the claim if it holds; raise CheckFailed with the hint if not."""
    if not bool(holds):
        raise CheckFailed(f"✗ {claim}: this does not hold here. {hint}".rstrip())
    say(f"✓ {claim}")


def close(claim: str, got, want, *, tolerance: float = 1e-5, hint: str = "") -> None:
    """Check that two trees of arrays agree within a tolerance relative to their largest entry."""
    if agree(got, want, tolerance):
        return say(f"✓ {claim}")
    got, want = leaves(got), leaves(want)
    shapes = [[leaf.shape for leaf in tree] for tree in (got, want)]
    if shapes[0] != shapes[1]:
        raise CheckFailed(f"✗ {claim}: shapes {shapes[0]} and {shapes[1]} differ. {hint}")
    gap = max(np.abs(g - w).max() for g, w in zip(got, want, strict=True))
    raise CheckFailed(
        f"✗ {claim}: the largest difference, {gap:.3g}, is over {tolerance:g}. {hint}"
    )


@functools.cache
def _expected() -> dict[str, dict]:
    return tomllib.loads(resources.files("labkit").joinpath("expected.toml").read_text("utf-8"))


def result(name: str, value: float, hint: str = "") -> None:
    """Compare a measured value with its range for the dataset in use; raise CheckFailed outside.

    The ranges are in `labkit/expected.toml`, with the spread over seeds they come from. With
    LABKIT_RESULTS set, appends the value, the dataset, the device and the versions to
    `results.jsonl` in that folder. Raises KeyError for a name that the file does not hold.
    """
    value, dataset = float(value), data.course_dataset()
    if files.setting("LABKIT_RESULTS"):
        _record(name=name, value=value, dataset=dataset)
    if name not in _expected():
        raise KeyError(f"labkit/expected.toml has no range for {name!r}; add one for each dataset.")
    entry = _expected()[name]
    text = f"{name} = {_show(value, entry)}"
    if dataset not in entry:
        return say(f"· {text} (no expected range for {dataset})")
    low, high = entry[dataset]["range"]
    expected = f"expected {_show(low, entry)} to {_show(high, entry)} on {dataset}"
    if not low <= value <= high:
        hint = hint or entry.get("hint", "Did a setting above change? Run the notebook afresh.")
        raise CheckFailed(f"✗ {text}; {expected}. {hint}")
    say(f"✓ {text} ({expected})")


def _show(value: float, entry: dict) -> str:
    return f"{value:.4g} {entry.get('unit', '')}".rstrip()


def _record(**line) -> None:
    time = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    line |= {"device": session.device(), "versions": session.versions(), "time": time}
    with files.optional("results", "LABKIT_RESULTS"):
        folder = files.folder("LABKIT_RESULTS", "")
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "results.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")  # one write: lines of two notebooks do not mix
