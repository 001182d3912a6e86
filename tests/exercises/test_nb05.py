"""Exercise checks of notebook 05: typical wrong answers, right answer."""

import jax
import jax.numpy as jnp
import pytest

from labkit import check

# 5.1


def langevin(sign=-1, drift=lambda s, t: s, width=lambda s, t: jnp.sqrt(2 * s * t), late=False):
    def answer(gradient, x, noise, step, temperature):
        kick = width(step, temperature) * noise
        return x + sign * drift(step, temperature) * gradient(x + kick * late) + kick

    return answer


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (langevin(), None),
        (langevin(sign=1), "climbs the energy"),
        (langevin(width=lambda s, t: 0), "the noise is missing"),
        (langevin(width=lambda s, t: jnp.sqrt(s * t)), "the 2 under the root"),
        (langevin(width=lambda s, t: 2 * s * t), "the root is missing"),
        (langevin(width=lambda s, t: jnp.sqrt(2 * t)), "step size is missing under"),
        (langevin(width=lambda s, t: jnp.sqrt(2 * s)), "temperature is not used"),
        (langevin(width=lambda s, t: t * jnp.sqrt(2 * s)), "belongs under the root"),
        (
            langevin(drift=lambda s, t: s / t, width=lambda s, t: jnp.sqrt(2 * s)),
            "scales the noise, not the descent",
        ),
        (langevin(drift=lambda s, t: s / 2), "half the descent"),
        (langevin(drift=lambda s, t: 1), "missing before the gradient"),
        (langevin(late=True), "before the noise is added"),
        (langevin(width=lambda s, t: -jnp.sqrt(2 * s * t)), "right in distribution"),
        (lambda gradient, x, *rest: x[0], "expected shape"),
    ],
)
def test_5_1(judge, answer, words):
    judge(check.exercise_5_1, answer, words)


# 5.2


def acceptance(sign=1, energies=1, proposals=1, width=4, drift=1, own=True, cap=True):
    def answer(energy, x, proposal, step):
        def log_q(to, start, gradient_at):
            mean = start - drift * step * jax.grad(energy)(gradient_at)
            return -jnp.sum((to - mean) ** 2) / (width * step)

        back = log_q(x, proposal, proposal if own else x)
        ratio = energies * (energy(x) - energy(proposal))
        ratio = sign * (ratio + proposals * (back - log_q(proposal, x, x)))
        return jnp.minimum(0.0, ratio) if cap else ratio

    return answer


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (acceptance(), None),
        (acceptance(sign=-1), "the sign"),
        (acceptance(sign=-1, cap=False), "the sign"),
        (acceptance(cap=False), "at most 0"),
        (acceptance(proposals=0), "symmetric proposal"),
        (acceptance(proposals=-1), "exchanged"),
        (acceptance(energies=0), "the energies are missing"),
        (acceptance(energies=-1, cap=False), "energies have the wrong sign"),
        (acceptance(width=2), "variance is 2·step"),
        (acceptance(width=1), "½ over the variance"),
        (acceptance(drift=-1), "with a minus"),
        (acceptance(own=False), "its gradient belongs there"),
        (lambda *a: jnp.exp(acceptance()(*a)), "return its logarithm"),
        (lambda *a: jnp.float32(0.7), "the value is off"),
    ],
)
def test_5_2(judge, answer, words):
    judge(check.exercise_5_2, answer, words)


# 5.3


def persistent(start=None, samples=None, buffered=None, where=lambda rows: rows, swap=False):
    def answer(buffer, rows, fresh, noise, run):
        chains = (start or right_start)(buffer, rows, fresh, noise)
        ends = run(chains)
        kept = buffer.at[where(rows)].set(chains if buffered == "starts" else ends)
        kept = {"old": buffer, "rows": ends}.get(buffered, kept)
        pair = chains if samples == "starts" else ends, kept
        return pair[::-1] if swap else pair

    return answer


def right_start(buffer, rows, fresh, noise):
    return jnp.where(fresh[:, None], noise, buffer[rows])


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (persistent(), None),
        (persistent(swap=True), "exchanged"),
        (persistent(buffered="old"), "never changed in place"),
        (persistent(buffered="starts"), "must keep their ends"),
        (persistent(buffered="rows"), "the whole new buffer"),
        (persistent(samples="starts"), "not their starts"),
        (persistent(samples="starts", buffered="starts"), "never run"),
        (persistent(start=lambda b, r, f, n: b[r]), "no chain is restarted"),
        (persistent(start=lambda b, r, f, n: n), "nothing persists"),
        (persistent(start=lambda b, r, f, n: right_start(b, r, ~f, n)), "the wrong way round"),
        (persistent(where=lambda rows: jnp.arange(4)), "written to the first rows"),
        (
            persistent(
                start=lambda b, r, f, n: right_start(b, jnp.arange(4), f, n),
                where=lambda rows: jnp.arange(4),
            ),
            "not those of `rows`",
        ),
        (persistent(start=lambda b, r, f, n: b), "run is given chains of shape (7, 2)"),
        (lambda buffer, rows, fresh, noise, run: run(noise), "return two things"),
    ],
)
def test_5_3(judge, answer, words):
    judge(check.exercise_5_3, answer, words)


# 5.4


def matching(sign=-1, target=lambda s: -1 / s, at=lambda s: s, half=0.5, reduce=jnp.sum, over=None):
    def answer(energy, x, noise, sigma):
        score = sign * jax.vmap(jax.grad(energy))(x + at(sigma) * noise)
        squares = reduce((score - target(sigma) * noise) ** 2, axis=1)
        return half * (over or jnp.mean)(squares)

    return answer


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (matching(), None),
        (matching(sign=1), "a sign"),
        (matching(target=lambda s: 1 / s), "a sign"),
        (matching(target=lambda s: -1.0), "the target is −noise/σ: "),
        (matching(target=lambda s: -1 / s**2), "once too often"),
        (matching(target=lambda s: -s), "not the noise that was added"),
        (matching(at=lambda s: 0.0), "not at the clean one"),
        (matching(at=lambda s: 1.0), "multiplied by σ before"),
        (matching(half=1.0), "the ½ is missing"),
        (matching(reduce=jnp.mean), "mean over the pixels"),
        (matching(over=jnp.sum), "sum over the batch"),
        (matching(over=lambda v: v), "one number is expected"),
        (matching(reduce=lambda v, axis: jnp.sqrt(jnp.sum(v, axis=axis))), "you return its root"),
    ],
)
def test_5_4(judge, answer, words):
    judge(check.exercise_5_4, answer, words)
