"""Exercises of notebook 00."""

import jax
import jax.numpy as jnp
import numpy as np

from labkit.exercises.core import attempt, exercise, expect


@exercise("0.1", "Remember where you were going")
def exercise_0_1(answer):
    z, velocity, rate, beta = np.array([1.0, -2.0]), np.array([0.5, 0.25]), 0.1, 0.8
    slope = np.array([1.0, 3.0]) * z  # of ½(z₁² + 3 z₂²)

    def gradient(z):
        return jnp.array([1.0, 3.0]) * z

    new = beta * velocity - rate * slope
    got = attempt(answer, gradient, jnp.array(z), jnp.array(velocity), rate, beta)
    uphill = beta * velocity + rate * slope
    expect(
        got,
        (z + new, new),
        {
            "the sign of the gradient: you climb; the velocity must point against the slope.": (
                z + uphill,
                uphill,
            ),
            "you moved z with the old velocity; update the velocity first.": (z + velocity, new),
            "β is missing: the old velocity must be multiplied by it.": (
                z + velocity - rate * slope,
                velocity - rate * slope,
            ),
            "the order: return the new z first, then the new velocity.": (new, z + new),
            "only the new z came back; return the velocity too.": z + new,
        },
    )


@exercise("0.2", "One number for a batch")
def exercise_0_2(answer):
    points = jax.random.normal(jax.random.key(1), (5, 2))

    def energy(z):
        return z[0] ** 2 + 3.0 * jnp.abs(z[1])

    one_by_one = np.array([z[0] ** 2 + 3.0 * abs(z[1]) for z in np.asarray(points)])
    expect(
        attempt(answer, energy, points),
        one_by_one.mean(),
        {
            "this is the sum; take the mean, so that the batch size does not matter.": (
                one_by_one.sum()
            ),
            "these are the energies of all the points; average them to one number.": one_by_one,
            "this is the energy of the mean point; take the mean of the energies.": energy(
                points.mean(axis=0)
            ),
            "energy got the whole batch at once and took rows for coordinates; "
            "lift it with jax.vmap first.": np.mean(energy(points)),
        },
    )
