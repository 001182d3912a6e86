"""Exercise checks of notebook 06: typical wrong answers, right answer."""

import jax
import jax.numpy as jnp
import pytest

from labkit import check

# 6.1


def area(tie=0.5, reverse=False, reduce=jnp.mean):
    def answer(known, unknown):
        difference = unknown[None, :] - known[:, None]
        difference = -difference if reverse else difference
        return reduce((difference > 0) + tie * (difference == 0))

    return answer


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (area(), None),
        (area(reverse=True), "other way round"),
        (area(tie=0.0), "ties count one half; yours count nothing"),
        (area(tie=1.0), "count as won"),
        (area(reduce=jnp.sum), "divide by how many"),
        (area(reduce=lambda pairs: pairs.mean(axis=0)), "each stranger"),
        (area(reduce=lambda pairs: pairs.mean(axis=1)), "each digit"),
        (area(reduce=lambda pairs: pairs), "each pair"),
        (lambda known, unknown: unknown.mean() - known.mean(), "only who is larger"),
        (lambda known, unknown: 0.123, "the value is off"),
    ],
)
def test_6_1(judge, answer, words):
    judge(check.exercise_6_1, answer, words)


# 6.2


def laplace(energy_too=1.0, half=0.5, constant=-0.5, log=True, size=None, all_of_it=1.0):
    def answer(energy, z):
        determinant = jnp.linalg.det(jax.hessian(energy)(z))
        term = jnp.log(determinant) if log else determinant
        k = z.size if size is None else size
        rest = half * term + constant * k * jnp.log(2 * jnp.pi)
        return energy_too * energy(z) + all_of_it * rest

    return answer


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (laplace(), None),
        (lambda energy, z: energy(z), "the volume is missing"),
        (laplace(energy_too=0.0), "energy at the point is missing"),
        (laplace(half=-0.5), "sharper bowl"),
        (laplace(half=1.0), "½ of the log determinant"),
        (laplace(constant=0.0), "constant k/2 log 2π is missing"),
        (laplace(constant=0.5), "sign of k/2 log 2π"),
        (laplace(constant=-1.0), "½ of k log 2π"),
        (laplace(size=1), "yours only one"),
        (laplace(log=False), "determinant itself"),
        (laplace(all_of_it=-1.0), "volume as a whole"),
    ],
)
def test_6_2(judge, answer, words):
    judge(check.exercise_6_2, answer, words)


# 6.3

softmax, logsumexp = jax.nn.softmax, jax.nn.logsumexp


def inside(energy=lambda f: -logsumexp(f), logs=jax.nn.log_softmax):
    return lambda outputs: (energy(outputs), logs(outputs))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (inside(), None),
        (inside(energy=logsumexp), "sign of the energy"),
        (inside(energy=lambda f: -jnp.log(jnp.mean(jnp.exp(f)))), "mean of the exponentials"),
        (inside(energy=lambda f: -f.max()), "largest output"),
        (inside(energy=lambda f: -f.sum()), "take exponentials first"),
        (inside(energy=lambda f: -jnp.exp(f).sum()), "logarithm of the sum"),
        (inside(logs=softmax), "where their logarithms belong"),
        (inside(logs=lambda f: -jax.nn.log_softmax(f)), "sign of the logarithms"),
        (inside(logs=lambda f: f), "outputs themselves"),
        (lambda f: inside()(f)[::-1], "exchanged"),
        (inside(energy=lambda f: -jnp.log(jnp.exp(f).sum())), "overflow"),
        (lambda f: -logsumexp(f), "return two things"),
    ],
)
def test_6_3(judge, answer, words):
    judge(check.exercise_6_3, answer, words)
