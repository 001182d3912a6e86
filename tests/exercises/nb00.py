"""Answers to the exercises of notebook 00: right, and with typical mistakes."""

import jax
import jax.numpy as jnp


def momentum(sign=-1, decay=True, late=False, swap=False):
    def step(gradient, z, velocity, rate, beta):
        new = (beta if decay else 1.0) * velocity + sign * rate * gradient(z)
        pair = z + (velocity if late else new), new
        return pair[::-1] if swap else pair

    return step


CASES = [
    ("0.1", momentum(), None),
    ("0.1", momentum(sign=1), "you climb"),
    ("0.1", momentum(late=True), "update the velocity first"),
    ("0.1", momentum(decay=False), "β is missing"),
    ("0.1", momentum(swap=True), "the order"),
    ("0.2", lambda e, p: jnp.mean(jax.vmap(e)(p)), None),
    ("0.2", lambda e, p: jnp.sum(jax.vmap(e)(p)), "N times too large"),
    ("0.2", lambda e, p: jax.vmap(e)(p), "take the mean"),
    ("0.2", lambda e, p: e(p.mean(axis=0)), "the mean point"),
    ("0.2", lambda e, p: jnp.mean(e(p)), "rows for coordinates"),
]


def torch(gradient, z, velocity, rate, beta):
    velocity = beta * velocity + gradient(z)
    return z - rate * velocity, velocity


CASES += [
    ("0.1", torch, "PyTorch's rule"),
    ("0.1", lambda *a: jnp.stack(momentum()(*a)), None),
    ("0.2", lambda e, p: jnp.mean(jax.vmap(e, in_axes=1)(p)), "over axis 0"),
]
