"""Answers to the exercises of notebook 02: right, and with typical mistakes."""

import jax
import jax.numpy as jnp


def relu(z):
    return z * (z > 0)


def errors(weights, chain, activation=relu):
    return [h - activation(b) @ W.T for W, b, h in zip(weights, chain, chain[1:], strict=False)]


def hebbian(weights, chain):
    return [e.T @ relu(b) for e, b in zip(errors(weights, chain), chain, strict=False)]


def moves(weights, chain):
    """By autodiff, so that nothing is shared with the check: minus the gradient per example."""
    gradients = jax.grad(lambda c: 0.5 * sum(jnp.sum(e**2) for e in errors(weights, c)))(chain)
    return [-g for g in gradients]


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
    "the move of z1: wrong sign": lambda w, c: (
        [-m for m in tanh_by_autodiff(w, c)[0]],
        None or [0],
    ),
    "rectifier's": tanh_answer(slope=lambda z: z > 0),
    "not 1 − z²": tanh_answer(slope=lambda z: 1 - z**2),
    "slope φ'(z) is missing": tanh_answer(slope=jnp.ones_like),
    "the layer's own error, −ε: wrong sign": tanh_answer(own=1),
    "the layer's own error, −ε: missing": tanh_answer(own=0),
    "errors still use relu": tanh_answer(activation=relu),
    "the update of W1: wrong sign": tanh_answer(weights_of=lambda u, e, z: [-a for a in u]),
    "the update of W1: N times too small": tanh_answer(
        weights_of=lambda u, e, z: [a / 7 for a in u]
    ),
    "transposed": tanh_answer(weights_of=lambda u, e, z: [a.T for a in u]),
    "not z itself": tanh_answer(
        weights_of=lambda u, e, z: [a.T @ b for a, b in zip(e, z, strict=False)]
    ),
    "two lists": lambda w, c: jnp.zeros(3),
    "whole chain": lambda w, c: (list(c), tanh_by_autodiff(w, c)[1]),
}


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
    "γ Δ: wrong sign": momentum(sign=-1),
    "old velocities": momentum(old=True),
    "β is missing": momentum(keep=False),
    "learning rate is missing": momentum(gain=1.0),
    "the order": momentum(swap=True),
    "something is missing: the new velocity of W1": momentum(only=0),
}


def sparse(pull=jnp.sign, entries=(1, 2), sign=1.0, cut=slice(None)):
    def answer(weights, chain, strength):
        plain = moves(weights, chain)
        return [
            m - sign * strength * pull(z) if i in entries else m
            for i, (m, z) in enumerate(zip(plain, chain, strict=True))
        ][cut]

    return answer


WRONG_2_3 = {
    "the pull −s·sign(z): wrong sign": sparse(sign=-1.0),
    "Gaussian prior": sparse(pull=lambda z: z),
    "|z| itself": sparse(pull=jnp.abs),
    "same for every unit": sparse(pull=jnp.ones_like),
    "the move of x: a pull of the prior": sparse(entries=(0, 1, 2, 3)),
    "the move of z1: the pull −s·sign(z): missing": sparse(entries=(2,)),
    "the pull −s·sign(z): missing": sparse(sign=0.0),
    "something is missing: the move of x": sparse(cut=slice(1, -1)),
    "N times too small": sparse(sign=1 / 7),
}

RIGHT = {"2.1": tanh_by_autodiff, "2.2": momentum(), "2.3": sparse()}
WRONG = {"2.1": WRONG_2_1, "2.2": WRONG_2_2, "2.3": WRONG_2_3}
CASES = [(number, answer, None) for number, answer in RIGHT.items()] + [
    (number, answer, words) for number, all_ in WRONG.items() for words, answer in all_.items()
]


def in_place(weights, velocities, chain, learning_rate, beta):
    for i, update in enumerate(hebbian(weights, chain)):
        velocities[i] = beta * velocities[i] + learning_rate * update
    for i, velocity in enumerate(velocities):
        weights[i] = weights[i] + velocity
    return weights, velocities


CASES += [
    ("2.2", in_place, None),
]
