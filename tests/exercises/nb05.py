"""Answers to the exercises of notebook 05: right, and with typical mistakes."""

import jax
import jax.numpy as jnp


def langevin(sign=-1, drift=lambda s, t: s, width=lambda s, t: jnp.sqrt(2 * s * t), late=False):
    def answer(gradient, x, noise, step, temperature):
        kick = width(step, temperature) * noise
        return x + sign * drift(step, temperature) * gradient(x + kick * late) + kick

    return answer


CASES = [
    ("5.1", langevin(), None),
    ("5.1", langevin(sign=1), "−s ∇E(x): wrong sign"),
    ("5.1", langevin(width=lambda s, t: 0), "√(2 s T) ξ: missing"),
    ("5.1", langevin(width=lambda s, t: jnp.sqrt(s * t)), "the 2 under the root"),
    ("5.1", langevin(width=lambda s, t: 2 * s * t), "the root is missing"),
    ("5.1", langevin(width=lambda s, t: jnp.sqrt(2 * t)), "step size is missing under"),
    ("5.1", langevin(width=lambda s, t: jnp.sqrt(2 * s)), "temperature is not used"),
    ("5.1", langevin(width=lambda s, t: t * jnp.sqrt(2 * s)), "belongs under the root"),
    (
        "5.1",
        langevin(drift=lambda s, t: s / t, width=lambda s, t: jnp.sqrt(2 * s)),
        "scales the noise, not the descent",
    ),
    ("5.1", langevin(drift=lambda s, t: s / 2), "−s ∇E(x): half"),
    ("5.1", langevin(drift=lambda s, t: 1), "missing before the gradient"),
    ("5.1", langevin(late=True), "before the noise is added"),
    ("5.1", langevin(width=lambda s, t: -jnp.sqrt(2 * s * t)), "right in distribution"),
    ("5.1", lambda gradient, x, *rest: x[0], "expected shape"),
]


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


CASES += [
    ("5.2", acceptance(), None),
    ("5.2", acceptance(sign=-1), "the sign"),
    ("5.2", acceptance(sign=-1, cap=False), "wrong sign"),
    ("5.2", acceptance(cap=False), "at most 0"),
    ("5.2", acceptance(proposals=0), "not symmetric"),
    ("5.2", acceptance(proposals=-1), "exchanged"),
    ("5.2", acceptance(energies=0), "the energies are missing"),
    ("5.2", acceptance(energies=-1), "energies have the wrong sign"),
    ("5.2", acceptance(width=2), "variance is 2·step"),
    ("5.2", acceptance(width=1), "½ over the variance"),
    ("5.2", acceptance(drift=-1), "with a minus"),
    ("5.2", acceptance(own=False), "its gradient belongs there"),
    ("5.2", lambda *a: jnp.exp(acceptance()(*a)), "return its logarithm"),
    ("5.2", lambda *a: jnp.float32(0.7), "the same for every input"),
]


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


CASES += [
    ("5.3", persistent(), None),
    ("5.3", persistent(swap=True), "the order"),
    ("5.3", persistent(buffered="old"), "never changed in place"),
    ("5.3", persistent(buffered="starts"), "must keep their ends"),
    ("5.3", persistent(buffered="rows"), "the whole new buffer"),
    ("5.3", persistent(samples="starts"), "not their starts"),
    ("5.3", persistent(samples="starts", buffered="starts"), "never run"),
    ("5.3", persistent(start=lambda b, r, f, n: b[r]), "no chain is restarted"),
    ("5.3", persistent(start=lambda b, r, f, n: n), "nothing persists"),
    ("5.3", persistent(start=lambda b, r, f, n: right_start(b, r, ~f, n)), "the wrong way round"),
    ("5.3", persistent(where=lambda rows: jnp.arange(4)), "go to the first rows"),
    (
        "5.3",
        persistent(
            start=lambda b, r, f, n: right_start(b, jnp.arange(4), f, n),
            where=lambda rows: jnp.arange(4),
        ),
        "not those of `rows`",
    ),
    ("5.3", persistent(start=lambda b, r, f, n: b), "run is given chains of shape (7, 2)"),
    ("5.3", lambda buffer, rows, fresh, noise, run: run(noise), "return two things"),
]


def matching(sign=-1, target=lambda s: -1 / s, at=lambda s: s, half=0.5, reduce=jnp.sum, over=None):
    def answer(energy, x, noise, sigma):
        score = sign * jax.vmap(jax.grad(energy))(x + at(sigma) * noise)
        squares = reduce((score - target(sigma) * noise) ** 2, axis=1)
        return half * (over or jnp.mean)(squares)

    return answer


CASES += [
    ("5.4", matching(), None),
    ("5.4", matching(sign=1), "a sign"),
    ("5.4", matching(target=lambda s: 1 / s), "a sign"),
    ("5.4", matching(target=lambda s: -1.0), "the target is −noise/σ: "),
    ("5.4", matching(target=lambda s: -1 / s**2), "divided by σ twice"),
    ("5.4", matching(target=lambda s: -s), "not the noise that was added"),
    ("5.4", matching(at=lambda s: 0.0), "not at the clean one"),
    ("5.4", matching(at=lambda s: 1.0), "multiply the noise by σ"),
    ("5.4", matching(half=1.0), "twice what it should be"),
    ("5.4", matching(reduce=jnp.mean), "mean over the pixels"),
    ("5.4", matching(over=jnp.sum), "N times too large"),
    ("5.4", matching(over=lambda v: v), "take the mean"),
    (
        "5.4",
        matching(reduce=lambda v, axis: jnp.sqrt(jnp.sum(v, axis=axis))),
        "you return its root",
    ),
]


def own_noise(gradient, x, noise, step, temperature):
    noise = jax.random.normal(jax.random.key(3), x.shape)
    return langevin()(gradient, x, noise, step, temperature)


def run_twice(buffer, rows, fresh, noise, run):
    starts = right_start(buffer, rows, fresh, noise)
    return run(starts), buffer.at[rows].set(run(starts))


CASES += [
    ("5.1", own_noise, "the noise you are given"),
    ("5.3", run_twice, "called twice"),
]
