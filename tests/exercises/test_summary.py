"""check.summary(): done, tries and time of each exercise, from what was really checked."""

import re

import pytest

from labkit import check
from labkit.exercises import core
from labkit.exercises import summary as progress

WRONG, STUB = (lambda *arguments: 0.0), (lambda *arguments: None)


def right(gradient, z, velocity, rate, beta):
    velocity = beta * velocity - rate * gradient(z)
    return z + velocity, velocity


def momentum_step_solution(gradient, z, velocity, rate, beta):
    return right(gradient, z, velocity, rate, beta)


@pytest.fixture
def summary(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_entries", {})
    monkeypatch.setattr(progress, "_began", 0.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: 12 * 60.0)

    def summary(*runs):
        for exercise, answer in runs:
            exercise(answer)
        capsys.readouterr()
        check.summary()
        return capsys.readouterr().out

    return summary


def test_run_all_untouched_says_the_same_everywhere(summary):
    runs = [(check.exercise_0_1, STUB), (check.exercise_0_1, momentum_step_solution),
            (check.exercise_0_2, STUB)]  # fmt: skip
    titles = {n: check.title for n, check in core.every().items() if n.startswith("0.")}
    width = max(map(len, titles.values()))
    lines = [f"  {number}  {title:{width}}  not attempted\n" for number, title in titles.items()]
    assert summary(*runs) == f"0 of {len(titles)} exercises done\n" + "".join(lines)


def test_tries_are_counted_up_to_the_first_tick(summary):
    runs = [(check.exercise_0_1, a) for a in (STUB, WRONG, WRONG, right, right, WRONG)]
    text = summary(*runs, (check.exercise_0_2, WRONG))
    assert re.match(r"1 of \d exercises done\n", text)
    assert "going  done, 3 tries, after 12 min\n" in text
    assert "batch         not right yet, 1 try\n" in text


def test_the_solutions_are_not_the_readers_success(summary):
    text = summary((check.exercise_0_1, momentum_step_solution))
    assert text.startswith("No exercise has been checked")
    assert "done, 1 try" in summary((check.exercise_0_1, right))


def test_exercises_of_this_notebook_only_the_unchecked_ones_too(summary):
    text = summary((check.exercise_3_2, STUB))
    assert re.match(r"0 of \d exercises done\n  3.1  ", text) and "  3.3  " in text


def test_nothing_but_the_first_tick_ends_the_counting(monkeypatch):
    monkeypatch.setattr(progress, "_entries", {})
    progress.note("0.1", attempted=False, done=False)
    progress.note("0.1", attempted=True, done=False)
    assert progress._entries["0.1"].tries == 1 and progress._entries["0.1"].seconds is None


def test_under_nbgrader_a_check_that_is_not_ticked_raises(monkeypatch, capsys):
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    check.exercise_0_1(right)
    for answer, words in ((STUB, "not attempted yet"), (WRONG, "✗ Exercise 0.1")):
        with pytest.raises(core.CheckFailed, match=words):
            check.exercise_0_1(answer)
        assert words in capsys.readouterr().out
