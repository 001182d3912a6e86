"""Notebook 02: its exercise checks name mistakes, and its numbers hold without its code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from labkit import check
from labkit.exercises import nb02


def relu(z):
    return z * (z > 0)


def said(capsys, judge, answer) -> str:
    judge(answer)
    return capsys.readouterr().out


def errors(weights, chain, activation=relu):
    return [h - activation(b) @ W.T for W, b, h in zip(weights, chain, chain[1:], strict=False)]


def hebbian(weights, chain):
    return [e.T @ relu(b) for e, b in zip(errors(weights, chain), chain, strict=False)]


def moves(weights, chain):
    """By autodiff, so that nothing is shared with the check: minus the gradient per example."""
    gradients = jax.grad(lambda c: 0.5 * sum(jnp.sum(e**2) for e in errors(weights, c)))(chain)
    return [-g for g in gradients]


# 2.1 -------------------------------------------------------------------------------------------


def tanh_by_autodiff(weights, chain):
    def energy(weights, chain):
        return 0.5 * sum(jnp.sum(e**2) for e in errors(weights, chain, jnp.tanh))

    by_weights, by_chain = jax.grad(energy, argnums=(0, 1))(weights, chain)
    return [-g for g in by_chain[1:-1]], [-g for g in by_weights]


def tanh_answer(slope=lambda z: 1 - jnp.tanh(z) ** 2, own=-1, activation=jnp.tanh, weights_of=None):
    def answer(weights, chain):
        e = errors(weights, chain, activation)
        hidden = [own * e[i - 1] + slope(chain[i]) * (e[i] @ weights[i]) for i in (1, 2)]
        updates = [e_l.T @ jnp.tanh(z) for e_l, z in zip(e, chain, strict=False)]
        return hidden, (weights_of or (lambda u, e, z: u))(updates, e, chain)

    return answer


WRONG_2_1 = {
    "sign of the moves": lambda w, c: ([-m for m in tanh_by_autodiff(w, c)[0]], None or [0]),
    "rectifier's": tanh_answer(slope=lambda z: z > 0),
    "not 1 − z²": tanh_answer(slope=lambda z: 1 - z**2),
    "slope φ'(z) is missing": tanh_answer(slope=jnp.ones_like),
    "opposite signs": tanh_answer(own=1),
    "own error is missing": tanh_answer(own=0),
    "errors still use relu": tanh_answer(activation=relu),
    "plus": tanh_answer(weights_of=lambda u, e, z: [-a for a in u]),
    "mean": tanh_answer(weights_of=lambda u, e, z: [a / 4 for a in u]),
    "transposed": tanh_answer(weights_of=lambda u, e, z: [a.T for a in u]),
    "not z itself": tanh_answer(
        weights_of=lambda u, e, z: [a.T @ b for a, b in zip(e, z, strict=False)]
    ),
    "two lists": lambda w, c: jnp.zeros(3),
    "whole chain": lambda w, c: (list(c), tanh_by_autodiff(w, c)[1]),
}


# 2.2 -------------------------------------------------------------------------------------------


def momentum(keep=True, sign=1, old=False, swap=False, gain=None, only=None):
    def answer(weights, velocities, chain, learning_rate, beta):
        rate = learning_rate if gain is None else gain
        new = [
            (beta if keep else 1.0) * v + sign * rate * u
            for v, u in zip(velocities, hebbian(weights, chain), strict=True)
        ]
        moved = [W + v for W, v in zip(weights, velocities if old else new, strict=True)]
        if only is not None:
            return (moved, new)[only]
        return (new, moved) if swap else (moved, new)

    return answer


WRONG_2_2 = {
    "the sign": momentum(sign=-1),
    "old velocities": momentum(old=True),
    "β is missing": momentum(keep=False),
    "learning rate is missing": momentum(gain=1.0),
    "the order": momentum(swap=True),
    "return the velocities too": momentum(only=0),
}


# 2.3 -------------------------------------------------------------------------------------------


def sparse(pull=jnp.sign, entries=(1, 2), sign=1.0, cut=slice(None)):
    def answer(weights, chain, strength):
        plain = moves(weights, chain)
        return [
            m - sign * strength * pull(z) if i in entries else m
            for i, (m, z) in enumerate(zip(plain, chain, strict=True))
        ][cut]

    return answer


WRONG_2_3 = {
    "the sign": sparse(sign=-1.0),
    "Gaussian prior": sparse(pull=lambda z: z),
    "|z| itself": sparse(pull=jnp.abs),
    "same for every unit": sparse(pull=jnp.ones_like),
    "label and image": sparse(entries=(0, 1, 2, 3)),
    "(z2)": sparse(entries=(2,)),
    "without any prior": sparse(sign=0.0),
    "whole chain": sparse(cut=slice(1, -1)),
    "mean over the batch": sparse(sign=0.25),
}

EXERCISES = {
    "2.1": (nb02.exercise_2_1, tanh_by_autodiff, WRONG_2_1),
    "2.2": (nb02.exercise_2_2, momentum(), WRONG_2_2),
    "2.3": (nb02.exercise_2_3, sparse(), WRONG_2_3),
}


@pytest.mark.parametrize("number", EXERCISES)
def test_a_right_answer_passes(number, capsys):
    judge, right, _ = EXERCISES[number]
    assert said(capsys, judge, right).startswith(f"✓ Exercise {number}")


@pytest.mark.parametrize(
    ("number", "hint"), [(n, hint) for n, (_, _, wrong) in EXERCISES.items() for hint in wrong]
)
def test_a_wrong_answer_gets_its_mistake_named(number, hint, capsys):
    judge, _, wrong = EXERCISES[number]
    text = said(capsys, judge, wrong[hint])
    assert text.startswith("✗") and hint in text


def test_an_exception_is_reported_not_raised(capsys):
    assert "raised" in said(capsys, nb02.exercise_2_2, lambda *args: 1 / 0)


def test_checks_are_reachable_from_the_package():
    assert check.exercise_2_1 is nb02.exercise_2_1


# The argument of the notebook, without its code ---------------------------------------------------


def test_inference_above_the_limit_of_the_curvature_does_not_settle():
    """Section 5: the limit 2/λ_max of the curvature matrix, on a network whose units stay on."""
    rng = np.random.default_rng(0)
    W2, W3 = (np.abs(rng.normal(size=s)) * 0.5 for s in ((6, 4), (9, 6)))
    A = np.block([[np.eye(4) + W2.T @ W2, -W2.T], [-W2, np.eye(6) + W3.T @ W3]])
    p1 = np.full(4, 5.0)
    optimum = np.concatenate([p1, W2 @ p1])  # where all errors are zero
    image = W3 @ (W2 @ p1)

    def distance(rate, steps=400):
        z1, z2 = p1 + 1e-3, W2 @ p1 - 1e-3
        for _ in range(steps):
            e1, e2, e3 = z1 - p1, z2 - W2 @ z1, image - W3 @ z2
            z1, z2 = z1 + rate * (W2.T @ e2 - e1), z2 + rate * (W3.T @ e3 - e2)
            if not np.all(np.abs(np.concatenate([z1, z2])) < 1e9):
                return np.inf
        return np.linalg.norm(np.concatenate([z1, z2]) - optimum)

    limit = 2 / np.linalg.eigvalsh(A).max()
    assert distance(0) > distance(0.98 * limit)
    assert distance(1.02 * limit) > distance(0)


def test_local_rules_draw_ten_clean_digits_in_five_epochs_of_the_embedded_digits():
    """Section 6 in plain NumPy: no line shared with the notebook."""
    from labkit import data

    digits = data.load("digits")
    images = digits.train_images.reshape(-1, 784).astype(np.float32)
    labels = np.eye(10, dtype=np.float32)[digits.train_labels]
    rng = np.random.default_rng(5)
    W1, W2, W3 = (
        rng.normal(0, 0.05, shape).astype(np.float32) for shape in ((64, 10), (256, 64), (784, 256))
    )
    for _ in range(5):
        order = rng.permutation(len(images))
        for start in range(0, len(images), 50):
            x, y = labels[order[start : start + 50]], images[order[start : start + 50]]
            z1 = x @ W1.T
            z2 = relu(z1) @ W2.T
            for _ in range(20):
                e1, e2, e3 = z1 - x @ W1.T, z2 - relu(z1) @ W2.T, y - relu(z2) @ W3.T
                z1, z2 = (
                    z1 + 0.05 * ((z1 > 0) * (e2 @ W2) - e1),
                    z2 + 0.05 * ((z2 > 0) * (e3 @ W3) - e2),
                )
            e1, e2, e3 = z1 - x @ W1.T, z2 - relu(z1) @ W2.T, y - relu(z2) @ W3.T
            W1, W2, W3 = (
                W1 + 0.005 * e1.T @ x,
                W2 + 0.005 * e2.T @ relu(z1),
                W3 + 0.005 * e3.T @ relu(z2),
            )
    drawn = relu(relu(np.eye(10) @ W1.T) @ W2.T) @ W3.T
    means = np.stack([images[digits.train_labels == c].mean(axis=0) for c in range(10)])
    distances = ((drawn[:, None] - means) ** 2).mean(axis=-1)
    assert distances.argmin(axis=1).tolist() == list(range(10))
    assert np.diag(distances).max() < 0.002
