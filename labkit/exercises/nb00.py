"""Exercises of notebook 00."""

import jax.numpy as jnp
import numpy as np

from labkit.exercises.core import Case, exercise, trials


@exercise("0.1", "Remember where you were going", stars=1, minutes=5)
def exercise_0_1(answer, random):
    def case(fast=1.0, steep=1.0):
        z, velocity = random.normal(size=(2, 4)) * [[1], [fast]]
        rate, beta = random.uniform(0.2, 0.5), random.uniform(0.5, 0.9)
        curvature = steep * random.uniform(1, 3, size=4)
        slope, ahead = curvature * z, curvature * (z + beta * velocity)

        def step(new, moved=None):
            return z + (new if moved is None else moved), new

        new = beta * velocity - rate * slope
        torch = beta * velocity + slope
        return Case(
            (lambda z: jnp.asarray(curvature) * z, z, velocity, rate, beta),
            step(new),
            {
                "you climb: the velocity must point against the slope.":
                    step(beta * velocity + rate * slope),
                "you moved z with the old velocity; update the velocity first.":
                    step(new, velocity),
                "β is missing: multiply the old velocity by it.": step(velocity - rate * slope),
                "here η is in v; PyTorch's rule is v ← β v + ∇E and z ← z − η v.":
                    step(torch, -rate * torch),
                "β multiplies the old velocity only, not the gradient.":
                    step(beta * (velocity - rate * slope)),
                "there is no 1 − β before the gradient here.":
                    step(beta * velocity - (1 - beta) * rate * slope),
                "take the gradient at z itself, not ahead of it (Nesterov).":
                    step(beta * velocity - rate * ahead),
                "the velocity that you return is still the old one.": (z + new, velocity),
            },
            terms={"z": (z, 0 * z), "β v": (beta * velocity,) * 2, "−η ∇E": (-rate * slope,) * 2},
            strangers={
                "v without β": (velocity,) * 2,
                "∇E without η": (slope,) * 2,
                "β by itself": (beta + 0 * z,) * 2,
                "η by itself": (rate + 0 * z,) * 2,
                "β z": (beta * z,) * 2,
            },
        )  # fmt: skip

    apart = [
        ("right if the old velocity is zero: look at β v.", lambda: case(fast=0.0)),
        ("right if the gradient is zero: look at −η ∇E.", lambda: case(steep=0.0)),
    ]
    names = ["the new z", "the new velocity"]
    trials(answer, (case() for _ in range(3)), apart=apart, names=names)


@exercise("0.2", "One number for a batch", stars=1, minutes=5)
def exercise_0_2(answer, random):
    def case():
        points, factor = random.normal(size=(5, 2)), random.uniform(1, 4)

        def energy(z):
            return z[0] ** 2 + factor * jnp.abs(z[1])

        def by_hand(z):
            return z[0] ** 2 + factor * np.abs(z[1])

        energies = by_hand(points.T)
        return Case(
            (energy, points),
            energies.mean(),
            {f"this is the {name} of the energies; take their mean.": getattr(np, name)(energies)
             for name in ("max", "min", "median", "prod", "std")}
            | {
                "this is the energy of the mean point; take the mean of the energies.":
                    by_hand(points.mean(axis=0)),
                "energy took rows for coordinates: lift it with jax.vmap, over axis 0, because the "
                "points are the rows.": by_hand(points).mean(),
            },
            terms={f"point {i + 1}": energy / 5 for i, energy in enumerate(energies)},
        )  # fmt: skip

    trials(answer, (case() for _ in range(8)), batch=5)
