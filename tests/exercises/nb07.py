"""Answers to the exercises of notebook 07: right, and with typical mistakes."""

import jax
import jax.numpy as jnp


def area(tie=0.5, reverse=False, reduce=jnp.mean):
    def answer(known, unknown):
        difference = unknown[None, :] - known[:, None]
        difference = -difference if reverse else difference
        return reduce((difference > 0) + tie * (difference == 0))

    return answer


CASES = [
    ("7.1", area(), None),
    ("7.1", area(reverse=True), "other way round"),
    ("7.1", area(tie=0.0), "ties count one half; yours count nothing"),
    ("7.1", area(tie=1.0), "count as won"),
    ("7.1", area(reduce=jnp.sum), "divide by how many"),
    ("7.1", area(reduce=lambda pairs: pairs.mean(axis=0)), "take the mean"),
    ("7.1", area(reduce=lambda pairs: pairs.mean(axis=1)), "take the mean"),
    ("7.1", area(reduce=lambda pairs: pairs), "take the mean"),
    ("7.1", lambda known, unknown: unknown.mean() - known.mean(), "only who is larger"),
    ("7.1", lambda known, unknown: 0.123, "the same for every input"),
]


def laplace(energy_too=1.0, half=0.5, constant=-0.5, log=True, size=None, all_of_it=1.0):
    def answer(energy, z):
        determinant = jnp.linalg.det(jax.hessian(energy)(z))
        term = jnp.log(determinant) if log else determinant
        k = z.size if size is None else size
        rest = half * term + constant * k * jnp.log(2 * jnp.pi)
        return energy_too * energy(z) + all_of_it * rest

    return answer


CASES += [
    ("7.2", laplace(), None),
    ("7.2", lambda energy, z: energy(z), "the volume is missing"),
    ("7.2", laplace(energy_too=0.0), "F(z*): missing"),
    ("7.2", laplace(half=-0.5), "sharper bowl"),
    ("7.2", laplace(half=1.0), "½ log det: twice"),
    ("7.2", laplace(constant=0.0), "−k/2 log 2π: missing"),
    ("7.2", laplace(constant=0.5), "−k/2 log 2π: wrong sign"),
    ("7.2", laplace(constant=-1.0), "−k/2 log 2π: twice"),
    ("7.2", laplace(size=1), "yours only one"),
    ("7.2", laplace(log=False), "determinant itself"),
    ("7.2", laplace(all_of_it=-1.0), "volume as a whole"),
]


softmax, logsumexp = jax.nn.softmax, jax.nn.logsumexp


def inside(energy=lambda f: -logsumexp(f), logs=jax.nn.log_softmax):
    return lambda outputs: (energy(outputs), logs(outputs))


CASES += [
    ("7.3", inside(), None),
    ("7.3", inside(energy=logsumexp), "the energy: wrong sign"),
    ("7.3", inside(energy=lambda f: -jnp.log(jnp.mean(jnp.exp(f)))), "mean of the exponentials"),
    ("7.3", inside(energy=lambda f: -f.max()), "largest output"),
    ("7.3", inside(energy=lambda f: -f.sum()), "take exponentials first"),
    ("7.3", inside(energy=lambda f: -jnp.exp(f).sum()), "logarithm of the sum"),
    ("7.3", inside(logs=softmax), "where their logarithms belong"),
    ("7.3", inside(logs=lambda f: -jax.nn.log_softmax(f)), "the log-probabilities: wrong sign"),
    ("7.3", inside(logs=lambda f: f), "outputs themselves"),
    ("7.3", lambda f: inside()(f)[::-1], "the order"),
    ("7.3", inside(energy=lambda f: -jnp.log(jnp.exp(f).sum())), "overflow"),
    ("7.3", lambda f: -logsumexp(f), "something is missing"),
]
