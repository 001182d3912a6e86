"""Every check: written answers, answers made from the notebooks' solutions, what it prints."""

import ast
import importlib
import io
import re
import sys

import jax
import numpy as np
import pytest

from labkit import check
from labkit.exercises import core
from tests.exercises import mutants
from tools import ROOT

CHECKS = core.every()
numbers = pytest.mark.parametrize("number", CHECKS)
GENERAL = ("the value is off", "your code raised", "cannot be compared", "expected shape")


def cases() -> list[tuple]:
    """Every written answer: number of the exercise, answer, words of the hint or None if right."""
    files = sorted((ROOT / "tests/exercises").glob("nb[0-9]*.py"))
    modules = [importlib.import_module(f"tests.exercises.{file.stem}") for file in files]
    return [case for module in modules for case in module.CASES]


def judged(number, answer, seed=None) -> core.Verdict:
    """The verdict on the check's own inputs, or on those that a grader's seed draws."""
    seed = [int(part) for part in number.split(".")] if seed is None else seed
    return core.verdict(CHECKS[number].judge, answer, np.random.default_rng(seed))


@pytest.mark.parametrize(("number", "answer", "words"), cases())
def test_right_answers_pass_and_mistakes_are_named(number, answer, words):
    for seed in (None, 11):
        state, hint = judged(number, answer, seed)
        assert state == ("wrong" if words else "done"), hint
        assert (words or "") in hint


@numbers
def test_each_exercise_has_a_right_answer_and_names_two_mistakes(number):
    mine = [(answer, words) for n, answer, words in cases() if n == number]
    hints = [judged(number, answer).hint for answer, words in mine if words]
    named = {re.sub(r"\(yours.*", "", hint) for hint in hints if not hint.startswith(GENERAL)}
    assert any(words is None for _, words in mine) and len(named) >= 2


# Answers made from the notebooks' own solutions ---------------------------------------------------

MANY = {"1.6": 3, "3.1": 2, "7.2": 2}  # slow ones: of their faults one in so many


def calls_of(number, solution) -> list:
    """Arguments that the check draws with other seeds, and what the solution returns for them."""
    calls = []

    def recorded(*args, **kwargs):
        calls.append((args, kwargs))
        return solution(*args, **kwargs)

    recorded.remote = True  # no tracers of a gradient
    assert judged(number, recorded, 101).state == judged(number, recorded, 102).state == "done"
    if number == "5.3":  # its `run` counts its calls
        calls = [((*args[:4], lambda chains: 2 * chains + 1), kwargs) for args, kwargs in calls]
    few = calls if number == "1.6" else calls[:: max(1, len(calls) // 5)] + calls[-1:]
    return [(args, kwargs, core.attempt(solution, *args, **kwargs)) for args, kwargs in few]


def says_the_same(answer, calls) -> bool:
    """Whether an answer returns what the solution does: nothing of the check is used."""
    for args, kwargs, want in calls:
        try:
            got = jax.tree.leaves(core.attempt(answer, *args, **kwargs))
            want = [np.asarray(w, float) for w in jax.tree.leaves(want)]
            got = [np.asarray(g, float) for g in got]
        except Exception:
            return False
        if [g.shape for g in got] != [w.shape for w in want]:
            return False
        scales = [max(1.0, np.abs(w).max(initial=0)) for w in want]
        if any(not np.all(np.abs(g - w) <= 2e-5 * s) for g, w, s in zip(got, want, scales)):
            return False
    return True


def right_too(number, label, calls) -> bool:
    """1.2 asks for a distribution: its mirror image is as right."""
    return number == "1.2" and label == "-1.0 times"


@numbers
def test_answers_made_from_the_solution_are_judged_right_and_their_faults_named(number):
    tree, namespace = mutants.solutions()[number]
    calls = calls_of(number, mutants.build(tree, namespace))
    right = [made for made in mutants.right(tree, namespace) if says_the_same(made[1], calls)]
    faulty = list(mutants.wrong(tree, namespace))[:: MANY.get(number, 1)]
    fine = [
        made
        for made in faulty
        if says_the_same(made[1], calls) or right_too(number, made[0], calls)
    ]
    labels = {label for label, _ in fine}
    right, wrong = right + fine, [made for made in faulty if made[0] not in labels]
    rejected = {
        label: v for label, answer in right if (v := judged(number, answer, 7))[0] != "done"
    }
    verdicts = {i: judged(number, answer, 7) for i, (_, answer) in enumerate(wrong)}
    accepted = [wrong[i][0] for i, v in verdicts.items() if v.state != "wrong"]
    unnamed = [wrong[i][0] for i, v in verdicts.items() if GENERAL[0] in v.hint]
    assert not rejected and not accepted
    named = 1 - len(unnamed) / len(wrong)
    print(f"{number}: {len(right)} right, {len(wrong)} wrong, {named:.0%} named")
    enough = 20 if sum(1 for _ in ast.walk(tree)) > 15 else 10  # of `return 2 * x` there are fewer
    assert min(len(right), len(wrong)) >= enough and named >= 0.8, (len(right), unnamed)


# What a check prints --------------------------------------------------------------------------


@core.exercise("9.9", "Twice", stars=1, minutes=1)
def twice(answer, random):
    x = np.array([random.uniform(1, 2), 3.0])
    core.expect(core.attempt(answer, x), 2 * x, {"you cubed.": x**3}, batch=7)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda x: None, "… Exercise 9.9 (Twice): not attempted yet"),
        (lambda x: 2 * x, "✓ Exercise 9.9 (Twice)"),
        (lambda x: x**3, "✗ Exercise 9.9 (Twice): you cubed."),
        (lambda x: -2 * x, "wrong sign"),
        (lambda x: x, "half of what it should be"),
        (lambda x: 14 * x, "N times too large"),
        (lambda x: 2 * x / 7, "N times too small"),
        (lambda x: 5 * x, "multiplied by 2.5"),
        (lambda x: x + x**7, "the value is off"),
        (lambda x: x[0], "expected shape (2,), yours has ()"),
        (lambda x: [x, x], "return 1 arrays (); yours are 2"),
        (lambda x: [x, None], "is None"),
        (lambda x: "six", "not an array of numbers: str"),
        (lambda x: x * float("nan"), "nan is not a finite number"),
        (lambda x: x / {}, "your code raised TypeError"),
        (lambda: 6.0, "your code raised TypeError"),
        (6.0, "give the function itself"),
    ],
)
def test_an_exercise_prints_and_never_raises(capsys, answer, words):
    twice(answer)
    assert words in capsys.readouterr().out


@numbers
def test_every_exercise_knows_a_stub_and_reports_an_error_rather_than_raise_it(number, capsys):
    CHECKS[number](lambda *arguments, **options: None)
    assert capsys.readouterr().out.endswith("not attempted yet\n")
    CHECKS[number](lambda *arguments, **options: 1 / 0)
    assert re.match("✗.*ZeroDivisionError", capsys.readouterr().out)


def test_a_solution_is_not_called_the_readers_success(capsys):
    def double_solution(x):
        return 2 * x

    twice(double_solution)
    assert capsys.readouterr().out == "the solution passes (Exercise 9.9: Twice)\n"


def test_a_terminal_without_a_tick_does_not_fail_what_holds(monkeypatch):
    old = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", old)
    check.that("it holds", True)
    twice(lambda x: 2 * x)
    old.flush()
    assert old.buffer.getvalue().splitlines() == [
        b"[right] it holds",
        b"[right] Exercise 9.9 (Twice)",
    ]
