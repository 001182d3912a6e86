"""What the checks of all exercises share: call an answer, compare it, name the mistake."""

import functools
import importlib
import os
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from labkit.check import CheckFailed, agree, leaves, say
from labkit.exercises import summary

TOLERANCE = 2e-3  # holds on CPU, GPU and TF32


class Mistake(Exception):
    """An exercise's answer is wrong; the message names the mistake."""


class Unnamed(Mistake):
    """An answer is wrong, and nobody knows why."""

    def __init__(self, name: str, values: str) -> None:
        super().__init__(f"{name}the value is off. {values}".rstrip())
        self.values = values


class NotAttempted(Exception):
    """An exercise's stub still returns None."""


class Verdict(NamedTuple):
    """What a check found: "done", "wrong" or "not attempted"; the hint of a wrong answer."""

    state: str
    hint: str = ""


def verdict(judge: Callable, answer: Callable, random: np.random.Generator) -> Verdict:
    """Judge an answer, whatever it does, on inputs drawn from `random`."""
    if not callable(answer):
        return Verdict("wrong", "give the function itself, not its result, to the check")
    try:
        judge(answer, random)
    except NotAttempted:
        return Verdict("not attempted")
    except Mistake as mistake:
        return Verdict("wrong", str(mistake))
    except Exception as error:
        return Verdict("wrong", f"what came back cannot be compared ({type(error).__name__})")
    return Verdict("done")


def exercise(number: str, title: str, *, stars: int, minutes: int) -> Callable:
    """Make `judge(answer, random)` into a check that prints, and never raises.

    The judge draws all inputs from `random`: the check's are the same each time, a grader's new.
    It calls the answer through `attempt` and compares through `expect` or `trials`, or raises
    `Mistake`. The check prints *not attempted yet*, ✓, or ✗ with the mistake's name, and counts
    the try for `summary`, unless the answer is one of the notebook's own (`..._solution`). Where
    nbgrader runs the notebook, to grade it, whatever is not right raises CheckFailed as well.
    """
    summary.TITLES[number] = title
    seed = [int(part) for part in number.split(".")]

    def decorate(judge: Callable) -> Callable[[Callable], None]:
        @functools.wraps(judge)
        def check(answer: Callable) -> None:
            graded = os.environ.get("NBGRADER_EXECUTION")  # on inputs of which nobody has read
            state, hint = verdict(judge, answer, np.random.default_rng(None if graded else seed))
            ours = getattr(answer, "__name__", "").endswith("_solution")
            if not ours:
                summary.note(number, state != "not attempted", state == "done")
            name = f"Exercise {number} ({title})"
            line = {
                "done": f"the solution passes (Exercise {number}: {title})"
                if ours
                else f"✓ {name}",
                "wrong": f"✗ {name}: {hint}",
                "not attempted": f"… {name}: not attempted yet",
            }[state]
            say(line)
            if state != "done" and graded:
                raise CheckFailed(line)

        check.number, check.title, check.stars, check.minutes = number, title, stars, minutes
        check.judge = judge
        return check

    return decorate


def every() -> dict[str, Callable]:
    """The checks of all exercises, by number and in order."""
    files = sorted(Path(__file__).parent.glob("nb[0-9]*.py"))
    modules = [importlib.import_module(f"labkit.exercises.{file.stem}") for file in files]
    checks = [vars(module)[name] for module in modules for name in sorted(vars(module))
              if name.startswith("exercise_")]  # fmt: skip
    return {check.number: check for check in checks}


def describe(error: BaseException) -> str:
    """An exception of a reader's code in one line, with the line of that code where known."""
    here = os.path.dirname(os.path.abspath(__file__))
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "-packages" not in frame.filename and not frame.filename.startswith(here)
    ]
    line = f" (at `{frames[-1].line}`)" if frames and frames[-1].line else ""
    words = f"{error}".strip().splitlines()
    reason = f": {words[0]}" if words else ""
    return f"your code raised {type(error).__name__}{reason}{line}"


def attempt(answer: Callable, *args, **kwargs):
    """Call a reader's answer; None means not attempted, an exception becomes a `Mistake`.

    Every call gets containers of its own, and NumPy arrays as new JAX arrays, so that an answer
    may change what it is given. A `Mistake` raised on the way, by a function that the check hands
    in, is passed on as it is.
    """
    own = jax.tree.map(lambda a: jnp.asarray(a) if isinstance(a, np.ndarray) else a, (args, kwargs))
    try:
        value = answer(*own[0], **own[1])
    except Mistake:
        raise
    except NotImplementedError as error:
        raise NotAttempted from error
    except Exception as error:
        raise Mistake(describe(error)) from error
    if not (parts := jax.tree.leaves(value)):
        raise NotAttempted
    if len(parts) < len(jax.tree.leaves(value, is_leaf=lambda part: part is None)):
        raise Mistake("one of the values you return is None; is a part still to be written?")
    return value


class Case(NamedTuple):
    """A call of an answer: its arguments, the right value, and the value of each named mistake.

    terms: named parts whose sum is right; strangers: named parts which do not belong to it.
    """

    arguments: tuple
    want: object
    mistakes: dict[str, object] = {}
    terms: dict[str, object] = {}
    strangers: dict[str, object] = {}


def trials(answer: Callable, cases: Iterable[Case], *, apart=(), **options) -> None:
    """Call an answer for each case, and `expect` all at once: no mistake is named by chance.

    `apart` has pairs: where to look, and a function that draws a case in which that part does not
    count. An answer that is right there has its mistake in that part.
    """
    called = [(case, attempt(answer, *case.arguments)) for case in cases]
    try:
        _compare([got for _, got in called], [case for case, _ in called], **options)
    except Unnamed as unnamed:
        for where, draw in apart:
            try:
                trials(answer, [draw() for _ in range(3)], **options)
            except Mistake:
                continue
            raise Mistake(f"{where} {unnamed.values}".rstrip()) from None
        raise


def expect(got, want, mistakes: dict[str, object] | None = None, **options) -> None:
    """Raise the `Mistake` that explains `got`, or return if it equals `want`.

    `mistakes` maps a hint to the value which that mistake gives. Wrong shapes, orders, signs and
    factors are recognised for each array without it. Options: `names` of the arrays; `batch`, the
    number of examples; `terms` and `strangers` as in `Case`; `tolerance`.
    """
    parts = options.pop("terms", {}), options.pop("strangers", {})
    _compare([got], [Case((), want, mistakes or {}, *parts)], **options)


def _compare(got: list, cases: list[Case], names=(), batch=1, tolerance=TOLERANCE) -> None:
    want = [leaves(case.want) for case in cases]
    try:
        mine = [_parts(g, len(w)) for g, w in zip(got, want, strict=True)]
    except (TypeError, ValueError) as error:
        raise Mistake(f"this is not an array of numbers: {type(got[0]).__name__}") from error
    if agree(mine, want, tolerance):
        return
    single = len(mine[0]) == len(want[0]) == mine[0][0].size == want[0][0].size == 1
    values = "(yours {:.4f}, expected {:.4f} on this input)" if single else ""
    values = values.format(mine[0][0].item(), want[0][0].item()) if single else values
    for hint in cases[0].mistakes:
        if agree(mine, [case.mistakes[hint] for case in cases], tolerance):
            raise Mistake(f"{hint} {values}".rstrip())
    names = names or ([f"value {i + 1}" for i in range(len(want[0]))] if len(want[0]) > 1 else [""])
    _arrangement(mine[0], want[0], names, tolerance)
    for i, name in enumerate(names):
        pairs = [(m[i], w[i]) for m, w in zip(mine, want, strict=True)]
        if not all(agree(m, w, tolerance) for m, w in pairs):
            name = f"{name}: " if name else ""
            terms, strangers = (
                {n: [leaves(case[field][n])[i] for case in cases] for n in cases[0][field]}
                for field in (3, 4)
            )
            if hint := _explanation(pairs, terms, strangers, batch, tolerance):
                raise Mistake(f"{name}{hint} {values}".rstrip())
            for hint in cases[0].mistakes:  # in this array alone: another has another mistake
                its = [leaves(case.mistakes[hint])[i : i + 1] for case in cases]
                if agree([m for m, _ in pairs], its, tolerance):
                    raise Mistake(f"{name}{hint} {values}".rstrip())
            raise Unnamed(name, values)


def _parts(got, count: int) -> list[np.ndarray]:
    """The arrays that came back; those of one stacked array where several are expected."""
    parts = leaves(got)
    return list(parts[0]) if len(parts) == 1 < count == len(np.atleast_1d(parts[0])) else parts


def _arrangement(mine, want, names, tolerance) -> None:
    """Raise the `Mistake` if arrays are missing, too many, or in another order."""
    found = [[i for i, w in enumerate(want) if agree(m, w, tolerance)] for m in mine]
    missing = [name for i, name in enumerate(names) if [i] not in found]
    if len(mine) < len(want) and all(found) and missing:
        raise Mistake(f"what you return is right, but something is missing: {missing[0]}")
    if len(mine) != len(want):
        raise Mistake(f"return {len(want)} arrays ({', '.join(names)}); yours are {len(mine)}")
    if all(found) and not missing:
        raise Mistake(f"the order: return {', '.join(names)}")


def _explanation(pairs, terms, strangers, batch, tolerance) -> str:
    """What is wrong with one array, `pairs` of yours and the right one; "" if unknown."""

    def is_right(change) -> bool:
        return all(agree(change(m), w, tolerance) for m, w in pairs)

    mine, want = pairs[0]
    if mine.shape != want.shape:
        if mine.ndim == 2 and is_right(np.transpose):
            return "it is transposed."
        for word in ("mean", "sum"):
            for axis in (None, 0, 1)[: mine.ndim + 1]:
                if is_right(lambda m, word=word, axis=axis: getattr(m, word)(axis=axis)):
                    where = "" if axis is None else f" over axis {axis}"
                    return f"take the {word}{where}: expected shape {want.shape}."
        return f"expected shape {want.shape}, yours has {mine.shape}."
    flat, right = (np.concatenate([np.ravel(pair[i]) for pair in pairs]) for i in (0, 1))
    if not np.all(np.isfinite(flat)):
        return f"{flat[~np.isfinite(flat)][0]} is not a finite number."
    if len(pairs) > 2 and np.ptp(flat) == 0 < np.ptp(right):
        return "this is the same for every input."
    terms, strangers = ({n: np.concatenate([np.ravel(v) for v in values])
                         for n, values in kind.items()} for kind in (terms, strangers))  # fmt: skip
    whole, ones = {"": right}, {"a constant": np.ones(flat.size)}
    for inside, outside in (whole, {}), (terms, {}), (whole, ones), (terms, strangers):
        factors = _fit(flat, [*inside.values(), *outside.values()], tolerance)
        if factors is not None:
            said: dict[str, list[str]] = {}
            for name, factor in zip([*inside, *outside], factors, strict=True):
                if abs(factor - (name in inside)) > 0.02:  # not for nan, a part that is zero here
                    said.setdefault(_said(factor, name in inside, batch), []).append(name)
            hints = [f"{', '.join(n)}: {w}" if any(n) else w for w, n in said.items()]
            return "; ".join(hints[:2]) + "." * (not hints[-1].endswith("?"))
    return ""


def _fit(flat, columns, tolerance) -> np.ndarray | None:
    """The factors of the columns whose sum is `flat`, if there are such; nan for what is zero."""
    there = [column for column in columns if np.any(column)]
    if not there or len(flat) < len(there) + 2 * (len(there) > 1):
        return None
    sizes = np.array([np.linalg.norm(column) for column in there])
    matrix = np.stack(there, axis=1) / sizes
    found, _, rank, _ = np.linalg.lstsq(matrix, flat, rcond=1e-3)
    if rank < len(there) or not agree(matrix @ found, flat, tolerance):
        return None
    factors = iter(found / sizes)
    return np.array([next(factors) if np.any(column) else np.nan for column in columns])


def _said(factor: float, inside: bool, batch: int) -> str:
    """What the factor of a part says that should be 1, or 0 if the part is not inside."""
    known = {
        0: "missing",
        -1: "wrong sign",
        2: "twice what it should be; is a ½ missing?",
        0.5: "half of what it should be; is there a ½ too many?",
        batch: "N times too large; is this a sum over the batch instead of its mean?",
        1 / batch: "N times too small; do not divide by the batch size here",
    }
    if not inside:
        return f"does not belong here (it is in yours {factor:.3g} times)"
    close = [words for value, words in known.items() if abs(factor - value) < 0.01]
    return close[0] if close else f"multiplied by {factor:.3g}"
