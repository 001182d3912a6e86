"""Exercises of notebooks 00 and 01: right answers, untouched stubs, and typical mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from labkit import check


def errors_of(model, activities, x, y):
    below, here = [x, *activities[:-1]], [*activities[:-1], y]
    return [z - jax.vmap(f)(b) for f, b, z in zip(model, below, here)]


def energy(model, activities, x, y):
    return 0.5 * sum(jnp.sum(e**2) for e in errors_of(model, activities, x, y)) / len(x)


def momentum(sign=-1, decay=True, late=False, swap=False):
    def step(gradient, z, velocity, rate, beta):
        new = (beta if decay else 1.0) * velocity + sign * rate * gradient(z)
        pair = z + (velocity if late else new), new
        return pair[::-1] if swap else pair

    return step


def class_energy(half=0.5, sign=1, mean=True, hidden=True, squared=False, own=False):
    def answer(model, activities, x, y):
        errors = errors_of(model, activities, x, y)
        logits = activities[-1] if own else jax.vmap(model[-1])(activities[-2])
        total = sign * optax.softmax_cross_entropy(logits, y).sum()
        if hidden:
            total += half * sum(jnp.sum(e**2) for e in errors[:-1])
        if squared:
            total += 0.5 * jnp.sum(errors[-1] ** 2)
        return total / (len(x) if mean else 1)

    return answer


def random_start(scale=lambda s: s, same_key=False, rows=False, uniform=False, fixed=False):
    def answer(model, x, given, *, key):
        key = jax.random.key(0) if fixed else key
        draw = jax.random.uniform if uniform else jax.random.normal
        widths = [layer.weight.shape[0] for layer in model]
        keys = [key] * 3 if same_key else jax.random.split(key, 3)
        shapes = [(1, w) if rows else (len(x), w) for w in widths]
        drawn = [scale(given) * draw(k, s) for k, s in zip(keys, shapes)]
        return [jnp.broadcast_to(z, (len(x), w)) for z, w in zip(drawn, widths)]

    return answer


def precise(logs=0.5, exp=jnp.exp, square=False, widths=True, half=0.5, mean=True):
    def answer(model, activities, x, y, log_precisions):
        errors = errors_of(model, activities, x, y)
        pi = exp(log_precisions) ** (2 if square else 1)
        squares = half * sum(p * jnp.sum(e**2) for p, e in zip(pi, errors))
        counts = [e.size if widths else len(x) for e in errors]
        normalisers = logs * sum(p * n for p, n in zip(log_precisions, counts))
        return (squares - normalisers) / (len(x) if mean else 1)

    return answer


def stopping(late=False, batch=True, always=False, forget=False, first_layer=False):
    def answer(model, activities, x, y, rate, tolerance, max_steps):
        start, steps = activities, 0
        while steps < max_steps:
            gradients = jax.grad(energy, argnums=1)(model, activities, x, y)
            gradients = [(len(x) if batch else 1) * g for g in gradients]
            watched = gradients[:1] if first_layer else gradients
            done = max(jnp.abs(g).max() for g in watched) < tolerance and not always
            if done and not late:
                break
            factor = 1 if batch else len(x)
            activities = [z - rate * factor * g for z, g in zip(activities, gradients)]
            steps += 1
            if done:
                break
        return (start if forget else activities), steps

    return answer


CASES = [
    (check.exercise_0_1, momentum(), None),
    (check.exercise_0_1, momentum(sign=1), "you climb"),
    (check.exercise_0_1, momentum(late=True), "update the velocity first"),
    (check.exercise_0_1, momentum(decay=False), "β is missing"),
    (check.exercise_0_1, momentum(swap=True), "the order"),
    (check.exercise_0_2, lambda e, p: jnp.mean(jax.vmap(e)(p)), None),
    (check.exercise_0_2, lambda e, p: jnp.sum(jax.vmap(e)(p)), "this is the sum"),
    (check.exercise_0_2, lambda e, p: jax.vmap(e)(p), "average them"),
    (check.exercise_0_2, lambda e, p: e(p.mean(axis=0)), "the mean point"),
    (check.exercise_0_2, lambda e, p: jnp.mean(e(p)), "rows for coordinates"),
    (check.exercise_1_1, class_energy(), None),
    (check.exercise_1_1, class_energy(hidden=False), "only the cross-entropy"),
    (check.exercise_1_1, class_energy(mean=False), "sum over the batch"),
    (check.exercise_1_1, class_energy(half=1.0), "½ of the hidden"),
    (check.exercise_1_1, class_energy(sign=-1), "sign of the cross-entropy"),
    (check.exercise_1_1, class_energy(squared=True), "squared error as well"),
    (check.exercise_1_1, class_energy(own=True), "not activities[-1]"),
    (check.exercise_1_1, energy, "unchanged"),
    (check.exercise_1_2, random_start(), None),
    (check.exercise_1_2, random_start(scale=lambda s: 1.0), "multiply by scale"),
    (check.exercise_1_2, random_start(scale=jnp.sqrt), "not the variance"),
    (check.exercise_1_2, random_start(scale=jnp.square), "not the variance"),
    (check.exercise_1_2, random_start(same_key=True), "split the key"),
    (check.exercise_1_2, random_start(rows=True), "all examples got the same"),
    (check.exercise_1_2, random_start(uniform=True), "Gaussian"),
    (check.exercise_1_2, random_start(fixed=True), "from the key given"),
    (check.exercise_1_2, lambda m, x, s, *, key: [x], "list of arrays of shapes"),
    (check.exercise_1_3, precise(), None),
    (check.exercise_1_3, precise(logs=0.0), "normalisation −½ d log π is missing"),
    (check.exercise_1_3, precise(logs=-0.5), "sign of the normalisation"),
    (check.exercise_1_3, precise(exp=lambda p: p), "take its exponential"),
    (check.exercise_1_3, precise(square=True), "not squared itself"),
    (check.exercise_1_3, precise(exp=lambda p: jnp.exp(-p)), "multiply"),
    (check.exercise_1_3, precise(widths=False), "one per layer"),
    (check.exercise_1_3, precise(half=1.0), "½ of the squares"),
    (check.exercise_1_3, precise(mean=False), "sum over the batch"),
    (check.exercise_1_4, stopping(), None),
    (check.exercise_1_4, stopping(late=True), "off by one"),
    (check.exercise_1_4, stopping(batch=False), "per example"),
    (check.exercise_1_4, stopping(always=True), "ran to max_steps"),
    (check.exercise_1_4, stopping(forget=True), "returned the start"),
    (check.exercise_1_4, stopping(first_layer=True), "all activity gradients"),
]


@pytest.mark.parametrize(("exercise", "answer", "words"), CASES)
def test_right_answers_pass_and_mistakes_are_named(exercise, answer, words, capsys):
    exercise(answer)
    printed = capsys.readouterr().out
    assert printed.startswith("✓" if words is None else "✗"), printed
    assert words is None or words in printed, printed


def test_the_reference_gradients_of_exercise_1_4_are_those_of_the_energy():
    from labkit.exercises import nb01

    problem = nb01._problem()
    autodiff = jax.grad(energy, argnums=1)(*problem)
    for got, want in zip(nb01._gradients(*problem), autodiff, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)
