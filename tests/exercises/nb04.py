"""Answers to the exercises of notebook 04: right, and with typical mistakes."""

import jax
import jax.numpy as jnp


def kl(half=0.5, constant=0.5, sign=1, swap=False, log_of=2, reduce=jnp.sum, distance=1):
    def answer(m1, s1, m2, s2):
        if swap:
            m1, s1, m2, s2 = m2, s2, m1, s1
        squares = jnp.exp(log_of * s1) + distance * (m1 - m2) ** 2
        return reduce(sign * (s2 - s1) + half * squares / jnp.exp(log_of * s2) - constant)

    return answer


CASES = [
    ("4.1", kl(), None),
    ("4.1", kl(swap=True), "exchanged"),
    ("4.1", kl(half=1.0), "½ σ₁²/σ₂², ½ (μ₁ − μ₂)²/σ₂²: twice"),
    ("4.1", kl(constant=0.0), "the −½ of each unit: missing"),
    ("4.1", kl(constant=1.0), "the −½ of each unit: twice"),
    ("4.1", kl(sign=-1), "log σ₂, −log σ₁: wrong sign"),
    ("4.1", kl(sign=0.5), "log σ₂, −log σ₁: half"),
    ("4.1", kl(distance=0), "½ (μ₁ − μ₂)²/σ₂²: missing"),
    ("4.1", kl(log_of=1), "log σ for log σ²"),
    ("4.1", kl(reduce=jnp.mean), "mean over the units"),
    ("4.1", kl(reduce=lambda v: v), "expected shape ()"),
    ("4.1", lambda *a: -kl()(*a), "wrong sign"),
    ("4.1", lambda m1, s1, m2, s2: kl()(m1, s1, 0 * m2, 0 * s2), "ignores the second"),
    ("4.1", lambda *a: jnp.array(7.0), "the same for every input"),
]


def conditional(kl=1.0, order=1, exp=jnp.exp, sampled=True, see=(1, 1), mean=False, sign=1):
    def answer(encode, decode, x, y, noise):
        m, s = encode(jnp.concatenate([x, see[0] * y][::order]))
        z = m + exp(s) * noise * sampled
        logits = decode(jnp.concatenate([z, see[1] * y][::order]))
        pixels = x * logits - jax.nn.softplus(logits)
        likelihood = pixels.mean() if mean else pixels.sum()
        return sign * (likelihood - kl * jnp.sum(0.5 * (m**2 + jnp.exp(2 * s) - 1) - s))

    return answer


CASES += [
    ("4.2", conditional(), None),
    ("4.2", conditional(sign=-1), "wrong sign"),
    ("4.2", conditional(kl=-1.0), "−KL: wrong sign"),
    ("4.2", conditional(kl=0.0), "−KL: missing"),
    ("4.2", conditional(order=-1), "the label comes last"),
    ("4.2", conditional(see=(0, 1)), "the encoder does not see"),
    ("4.2", conditional(see=(1, 0)), "the decoder does not see"),
    ("4.2", conditional(exp=lambda s: s), "take the exponential"),
    ("4.2", conditional(exp=lambda s: jnp.exp(s / 2)), "log σ for log σ²"),
    ("4.2", conditional(sampled=False), "the noise is not used"),
    ("4.2", conditional(mean=True), "mean over the pixels"),
    ("4.2", lambda encode, *rest: encode(rest[1])[0].sum(), "encode takes one vector of 9 numbers"),
    ("4.2", lambda e, decode, x, y, noise: decode(noise).sum(), "decode takes one vector of 5"),
    ("4.2", lambda encode, decode, x, y, noise: encode(x, y), "your code raised TypeError"),
]


def stable(w, axis=1):
    return jax.nn.logsumexp(w, axis=axis) - jnp.log(w.shape[axis])


CASES += [
    ("4.3", lambda w: stable(w).mean(), None),
    ("4.3", lambda w: w.mean(), "exponentiate before"),
    ("4.3", lambda w: jax.nn.logsumexp(w, axis=1).mean(), "subtract log K"),
    ("4.3", lambda w: (stable(w) - w.max(axis=1)).mean(), "must be added back"),
    ("4.3", lambda w: stable(w, 0).mean(), "along axis 1"),
    ("4.3", lambda w: jax.nn.logsumexp(w) - jnp.log(w.size), "all images before the log"),
    ("4.3", lambda w: stable(w).sum(), "N times too large"),
    ("4.3", stable, "expected shape ()"),
    ("4.3", lambda w: -stable(w).mean(), "wrong sign"),
    ("4.3", lambda w: jnp.log(jnp.exp(w).mean(axis=1)).mean(), "around -400"),
]


def beta_elbo(sign=1, swap=False, use=lambda b: b, pixels=jnp.sum, units=jnp.sum, over=jnp.mean):
    def answer(logits, x, m, s, beta):
        likelihood = pixels(x * logits - jax.nn.softplus(logits), axis=1)
        kl = units(0.5 * (m**2 + jnp.exp(2 * s) - 1) - s, axis=1)
        if swap:
            return jnp.mean(beta * likelihood - kl)
        return sign * over(likelihood - use(beta) * kl)

    return answer


CASES += [
    ("4.4", beta_elbo(), None),
    ("4.4", beta_elbo(sign=-1), "wrong sign"),
    ("4.4", beta_elbo(swap=True), "not the likelihood"),
    ("4.4", beta_elbo(use=lambda b: 1.0), "β is not used"),
    ("4.4", beta_elbo(use=lambda b: 1 / b), "divided by β"),
    ("4.4", beta_elbo(use=lambda b: -b), "−β KL: wrong sign"),
    ("4.4", lambda *a: a[-1] * beta_elbo(use=lambda b: 1.0)(*a), "both terms"),
    ("4.4", beta_elbo(over=jnp.sum), "N times too large"),
    ("4.4", beta_elbo(over=lambda v: v), "expected shape ()"),
    ("4.4", beta_elbo(pixels=jnp.mean), "mean over the pixels"),
    ("4.4", beta_elbo(units=jnp.mean), "mean over the units"),
    ("4.4", beta_elbo(pixels=jnp.mean, units=jnp.mean), "mean over pixels and units"),
]


def naive(logits, x, m, s, beta):
    p = jax.nn.sigmoid(logits)
    likelihood = jnp.sum(jnp.where(x == 1, jnp.log(p), jnp.log(1 - p)), axis=1)
    return jnp.mean(likelihood - beta * jnp.sum(0.5 * (m**2 + jnp.exp(2 * s) - 1) - s, axis=1))


def one_largest(w):
    return jnp.mean(w.max() + jnp.log(jnp.exp(w - w.max()).mean(axis=1)))


CASES += [
    ("4.3", one_largest, "of each image"),
    ("4.4", naive, "logit of 200"),
]
