"""Answers to the exercises of notebook 06: right, and with typical mistakes."""

import jax
import jax.numpy as jnp


def in_errors(add=1.0, half=0.5, mean=True, hidden=True, top=True):
    def answer(layers, errors, x, y):
        z, total = x, 0.0
        for layer, e in zip(layers[:-1], errors, strict=True):
            z = layer(z) + add * e
            total += jnp.sum(e**2) * hidden
        total += jnp.sum((y - layers[-1](z)) ** 2) * top
        return half * total / (len(x) if mean else 1)

    return answer


CASES = [
    ("6.1", in_errors(), None),
    ("6.1", in_errors(add=0.0), "never added"),
    ("6.1", in_errors(add=-1.0), "*plus* its error"),
    ("6.1", in_errors(half=1.0), "twice"),
    ("6.1", in_errors(mean=False), "multiplied by 5"),
    ("6.1", in_errors(hidden=False), "the hidden errors: missing"),
    ("6.1", in_errors(top=False), "the error at the top: missing"),
]


def power(out=lambda v, w: v @ w):
    def answer(product, start, rounds):
        v = start / jnp.linalg.norm(start)
        for _ in range(rounds):
            v = product(v)
            v = v / jnp.linalg.norm(v)
        return out(v, product(v))

    return answer


CASES += [
    ("6.2", power(), None),
    ("6.2", power(out=lambda v, w: jnp.linalg.norm(w)), None),
    ("6.2", power(out=lambda v, w: w @ w), "square"),
    ("6.2", power(out=lambda v, w: 2 / (v @ w)), "limit of the rate"),
]


def block(skip=1.0, scale=lambda n, layers: (n * layers) ** -0.5, turn=lambda W: W.T, act=jnp.tanh):
    return lambda W, z, layers: skip * z + act(z) @ turn(W) * scale(W.shape[1], layers)


CASES += [
    ("6.3", block(), None),
    ("6.3", block(skip=0.0), "the skip, z: missing"),
    ("6.3", block(scale=lambda n, layers: layers**-0.5), "1/√width is missing"),
    ("6.3", block(scale=lambda n, layers: n**-0.5), "1/√layers is missing"),
    ("6.3", block(scale=lambda n, layers: 1 / (n * layers)), "*root*"),
    ("6.3", block(turn=lambda W: W), "transposed"),
    ("6.3", block(act=lambda z: z), "tanh is missing"),
]


def multipliers(climb=1.0, square=0.5, pull=1.0, late=True, moved=None):
    def answer(errors_of, loss, z, multipliers, rate):
        def lagrangian(z):
            e = errors_of(z)
            return loss(z) + pull * jnp.sum(multipliers * e) + square * jnp.sum(e * e)

        new = z - rate * jax.grad(lagrangian)(z)
        return new, multipliers + climb * (moved or rate) * errors_of(new if late else z)

    return answer


CASES += [
    ("6.4", multipliers(), None),
    ("6.4", multipliers(climb=-1.0), "the multipliers climb"),
    ("6.4", multipliers(square=1.0), "twice"),
    ("6.4", multipliers(square=0.0), "half the squared errors: missing"),
    ("6.4", multipliers(pull=0.0), "multipliers times errors: missing"),
    ("6.4", multipliers(late=False), "*new* activities"),
    ("6.4", multipliers(moved=1.0), "by the rate too"),
]
