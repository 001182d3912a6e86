"""Exercise checks of notebook 03: stub, typical wrong answers, right answer."""

import jax
import jax.numpy as jnp
import pytest

from labkit import check


def errors(generator, amortiser, states):
    pairs = list(zip(states[:-1], states[1:], strict=True))
    forward = [b - jax.vmap(f)(a) for f, (a, b) in zip(generator, pairs, strict=True)]
    backward = [a - jax.vmap(f)(b) for f, (a, b) in zip(amortiser, pairs, strict=True)]
    return forward, backward


def squares(errors):
    return sum(jnp.sum(e**2) for e in errors)


def energy(generator, amortiser, z, x, y, f=1.0, b=1.0, half=0.5, mean=True):
    forward, backward = errors(generator, amortiser, [x, *z, y])
    total = half * (f * squares(forward) + b * squares(backward))
    return total / len(x) if mean else total


def said(capsys, exercise, answer):
    exercise(answer)
    return capsys.readouterr().out


# 3.1


def precision(half=0.5, logs=0.5, exp=jnp.exp, mean=True, swap=False, per_layer=False):
    def answer(generator, amortiser, z, x, y, log_forward, log_backward):
        if swap:
            log_forward, log_backward = log_backward, log_forward
        forward, backward = errors(generator, amortiser, [x, *z, y])
        total = 0.0
        for log, side in ((log_forward, forward), (log_backward, backward)):
            count = len(x) * len(side) if per_layer else sum(e.size for e in side)
            total += half * exp(log) * squares(side) - logs * log * count
        return total / len(x) if mean else total

    return answer


WRONG_1 = [
    (precision(logs=0.0), "normalisation −½ d log π is missing"),
    (precision(logs=-0.5), "sign of the normalisation"),
    (precision(exp=lambda log: log), "take the exponential"),
    (precision(exp=lambda log: jnp.exp(-log)), "divided by the precision"),
    (precision(exp=lambda log: jnp.exp(2 * log)), "not squared itself"),
    (precision(half=1.0, logs=1.0), "½ is missing from both"),
    (precision(half=1.0), "½ of the squares"),
    (precision(logs=1.0), "½ of the normalisation"),
    (precision(mean=False), "sum over the batch"),
    (precision(swap=True), "swapped"),
    (precision(per_layer=True), "one per layer"),
    (lambda *_: 1 / 0, "ZeroDivisionError"),
]


# 3.2


def hybrid(
    f=1.0, b=0.0, sign=1.0, scale=None, free=(1, 1, 1, 0), start=None, extra=0, keep=slice(-1)
):
    def answer(generator, amortiser, y, rate, steps):
        states = [y]
        for layer in amortiser[::-1]:
            states = [jax.vmap(layer)(states[0]), *states]
        if start is not None:
            states = [start + 0 * z for z in states[:-1]] + [y]

        def total(s):
            return energy(generator, amortiser, s[1:-1], s[0], s[-1], f, b)

        for _ in range(steps + extra):
            slopes = jax.grad(total)(states)
            factor = len(y) if scale is None else scale
            states = [
                z - sign * rate * factor * m * g
                for z, m, g in zip(states, free, slopes, strict=True)
            ]
        return states[keep]

    return answer


WRONG_2 = [
    (hybrid(extra=-5), "descent after them is missing"),
    (hybrid(scale=1.0), "divided by the batch size"),
    (hybrid(scale=16.0), "N times too large"),
    (hybrid(sign=-1.0), "sign"),
    (hybrid(b=1.0), "amortiser initialises and then rests"),
    (hybrid(free=(0, 1, 1, 0)), "label did not move"),
    (hybrid(free=(1, 1, 1, 1)), "image moved"),
    (hybrid(extra=-1), "too few"),
    (hybrid(extra=1), "too many"),
    (hybrid(start=0.0), "start is zero"),
    (hybrid(keep=slice(None)), "leave the image out"),
    (hybrid(keep=slice(1, -1)), "label is missing"),
    (hybrid(keep=slice(2, None, -1)), "label first"),
    (lambda *_: jnp.zeros(3), "return a list"),
]


# 3.3


def masked(fill="prediction", seen="mask", half=0.5, mean=True, invert=False, f=1.0, b=1.0):
    def answer(generator, amortiser, z, x, y, mask):
        mask = 1 - mask if invert else mask
        prediction = jax.vmap(generator[-1])(z[-1])
        other = {"prediction": prediction, "zeros": 0.0, "image": y}[fill]
        shown = mask * y + (1 - mask) * other
        forward, backward = errors(generator, amortiser, [x, *z, shown])
        if seen == "mask":
            forward[-1] = mask * (y - prediction)
        elif seen == "all":
            forward[-1] = y - prediction
        total = half * (f * squares(forward) + b * squares(backward))
        return total / len(x) if mean else total

    return answer


WRONG_3 = [
    (masked(fill="image", seen="all"), "mask is not used"),
    (masked(seen="all"), "still have a forward error"),
    (masked(fill="image"), "still reads the hidden pixels"),
    (masked(fill="zeros"), "reads zeros"),
    (masked(fill="zeros", seen="shown"), "not black"),
    (masked(invert=True), "inverted"),
    (masked(half=1.0), "½ is missing"),
    (masked(mean=False), "sum over the batch"),
    (masked(b=0.0), "amortiser's errors are missing"),
    (masked(f=0.0), "generator's errors are missing"),
]

EXERCISES = [
    (check.exercise_3_1, precision(), WRONG_1),
    (check.exercise_3_2, hybrid(), WRONG_2),
    (check.exercise_3_3, masked(), WRONG_3),
]


@pytest.mark.parametrize(("exercise", "right", "_"), EXERCISES)
def test_stub_and_right_answer(exercise, right, _, capsys):
    assert said(capsys, exercise, lambda *args: None).startswith(f"… Exercise {exercise.number}")
    assert said(capsys, exercise, right).startswith(f"✓ Exercise {exercise.number}")
    assert said(capsys, exercise, 3.0).startswith("✗")


@pytest.mark.parametrize(
    ("exercise", "answer", "hint"),
    [(exercise, answer, hint) for exercise, _, wrong in EXERCISES for answer, hint in wrong],
)
def test_wrong_answers_are_named(exercise, answer, hint, capsys):
    text = said(capsys, exercise, answer)
    assert text.startswith("✗") and hint in text
