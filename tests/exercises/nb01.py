"""Answers to the exercises of notebook 01: right, and with typical mistakes."""

import jax
import jax.numpy as jnp
import optax


def errors_of(model, activities, x, y):
    below, here = [x, *activities[:-1]], [*activities[:-1], y]
    return [z - jax.vmap(f)(b) for f, b, z in zip(model, below, here)]


def energy(model, activities, x, y):
    return 0.5 * sum(jnp.sum(e**2) for e in errors_of(model, activities, x, y)) / len(x)


def class_energy(half=0.5, sign=1, mean=True, hidden=True, squared=False, own=False):
    def answer(model, activities, x, y):
        errors = errors_of(model, activities, x, y)
        logits = activities[-1] if own else jax.vmap(model[-1])(activities[-2])
        total = sign * optax.softmax_cross_entropy(logits, y).sum()
        if hidden:
            total += half * sum(jnp.sum(e**2) for e in errors[:-1])
        if squared:
            total += 0.5 * jnp.sum(errors[-1] ** 2)
        return total / (len(x) if mean else 1)

    return answer


def random_start(scale=lambda s: s, same_key=False, rows=False, uniform=False, fixed=False):
    def answer(model, x, given, *, key):
        key = jax.random.key(0) if fixed else key
        draw = jax.random.uniform if uniform else jax.random.normal
        widths = [layer.weight.shape[0] for layer in model]
        keys = [key] * 3 if same_key else jax.random.split(key, 3)
        shapes = [(1, w) if rows else (len(x), w) for w in widths]
        drawn = [scale(given) * draw(k, s) for k, s in zip(keys, shapes)]
        return [jnp.broadcast_to(z, (len(x), w)) for z, w in zip(drawn, widths)]

    return answer


def precise(logs=0.5, exp=jnp.exp, square=False, widths=True, half=0.5, mean=True):
    def answer(model, activities, x, y, log_precisions):
        errors = errors_of(model, activities, x, y)
        pi = exp(log_precisions) ** (2 if square else 1)
        squares = half * sum(p * jnp.sum(e**2) for p, e in zip(pi, errors))
        counts = [e.size if widths else len(x) for e in errors]
        normalisers = logs * sum(p * n for p, n in zip(log_precisions, counts))
        return (squares - normalisers) / (len(x) if mean else 1)

    return answer


def stopping(late=False, batch=True, always=False, forget=False, first_layer=False):
    def answer(model, activities, x, y, rate, tolerance, max_steps):
        start, steps = activities, 0
        while steps < max_steps:
            gradients = jax.grad(energy, argnums=1)(model, activities, x, y)
            gradients = [(len(x) if batch else 1) * g for g in gradients]
            watched = gradients[:1] if first_layer else gradients
            done = max(jnp.abs(g).max() for g in watched) < tolerance and not always
            if done and not late:
                break
            factor = 1 if batch else len(x)
            activities = [z - rate * factor * g for z, g in zip(activities, gradients)]
            steps += 1
            if done:
                break
        return (start if forget else activities), steps

    return answer


CASES = [
    ("1.1", class_energy(), None),
    ("1.1", class_energy(hidden=False), "½‖ε₁‖², ½‖ε₂‖²: missing"),
    ("1.1", class_energy(mean=False), "N times too large"),
    ("1.1", class_energy(half=1.0), "½‖ε₁‖², ½‖ε₂‖²: twice"),
    ("1.1", class_energy(sign=-1), "the cross-entropy: wrong sign"),
    ("1.1", class_energy(squared=True), "squared error as well"),
    ("1.1", class_energy(own=True), "not activities[-1]"),
    ("1.1", energy, "unchanged"),
    ("1.2", random_start(), None),
    ("1.2", random_start(scale=lambda s: 1.0), "multiply by scale"),
    ("1.2", random_start(scale=jnp.sqrt), "not the variance"),
    ("1.2", random_start(scale=jnp.square), "not the variance"),
    ("1.2", random_start(same_key=True), "split the key"),
    ("1.2", random_start(rows=True), "all examples got the same"),
    ("1.2", random_start(uniform=True), "Gaussian"),
    ("1.2", random_start(fixed=True), "from the key given"),
    ("1.2", lambda m, x, s, *, key: [x], "list of arrays of shapes"),
    ("1.5", precise(), None),
    ("1.5", precise(logs=0.0), "normalisation −½ d log π: missing"),
    ("1.5", precise(logs=-0.5), "normalisation −½ d log π: wrong sign"),
    ("1.5", precise(exp=lambda p: p), "take its exponential"),
    ("1.5", precise(square=True), "not squared itself"),
    ("1.5", precise(exp=lambda p: jnp.exp(-p)), "multiply"),
    ("1.5", precise(widths=False), "one per layer"),
    ("1.5", precise(half=1.0), "½ π ‖ε‖²: twice"),
    ("1.5", precise(mean=False), "N times too large"),
    ("1.6", stopping(), None),
    ("1.6", stopping(late=True), "off by one"),
    ("1.6", stopping(batch=False), "N times smaller"),
    ("1.6", stopping(always=True), "ran to max_steps"),
    ("1.6", stopping(forget=True), "returned are the start"),
    ("1.6", stopping(first_layer=True), "look at all layers"),
]


def keys_of(choose, draw=jax.random.normal):
    def answer(model, x, scale, *, key):
        widths = [layer.weight.shape[0] for layer in model]
        return [scale * draw(k, (len(x), w)) for k, w in zip(choose(key), widths)]

    return answer


def uniform(key, shape):
    return jax.random.uniform(key, shape, minval=-(3**0.5), maxval=3**0.5)


def in_place(model, activities, x, y, rate, tolerance, max_steps, first=0):
    for step in range(max_steps):
        gradients = jax.grad(energy, argnums=1)(model, activities, x, y)
        if step >= first and max(jnp.abs(g).max() for g in gradients) * len(x) < tolerance:
            return activities, step
        for i, g in enumerate(gradients):
            activities[i] = activities[i] - rate * len(x) * g
    return activities, max_steps


def at_least_one(*args):
    return in_place(*args, first=1)


def log_variances(model, activities, x, y, log_precisions):
    return precise()(model, activities, x, y, -log_precisions)


CASES += [
    ("1.2", keys_of(lambda key: jax.random.split(key, 3), uniform), "no Gaussian"),
    ("1.2", keys_of(lambda key: [*jax.random.split(key), jax.random.split(key)[0]]), "two layers"),
    ("1.2", keys_of(lambda key: [key, *jax.random.split(key)]), "split it first"),
    ("1.5", log_variances, "not the log of the variance"),
    ("1.6", in_place, None),
    ("1.6", at_least_one, "look before you step"),
]


def walking(factor=1.0, one_by_one=False, count=0, drop_top=False):
    def answer(model, activities, x, y, rate, steps):
        for _ in range(steps + count):
            gradients = jax.grad(energy, argnums=1)(model, activities, x, y)
            for i in range(len(gradients)):
                if one_by_one:
                    gradients = jax.grad(energy, argnums=1)(model, activities, x, y)
                activities[i] = activities[i] - factor * rate * gradients[i]
        return activities[:-1] if drop_top else activities

    return answer


def scanned(model, activities, x, y, rate, steps):
    def move(z, _):
        gradients = jax.grad(energy, argnums=1)(model, z, x, y)
        return jax.tree.map(lambda a, g: a - rate * g, z, gradients), None

    return jax.lax.scan(move, [jnp.asarray(z) for z in activities], length=steps)[0]


def first_step(sign=-1, correct=True, epsilon=1e-8):
    def answer(gradient, rate):
        if not correct:
            return sign * rate * gradient / (jnp.abs(gradient) + epsilon) * 0.1 / 0.001**0.5
        return sign * rate * gradient / (jnp.sqrt(gradient**2) + epsilon)

    return answer


def by_optax(gradient, rate):
    adam = optax.adam(rate)
    return adam.update(gradient, adam.init(gradient))[0]


CASES += [
    ("1.3", walking(), None),
    ("1.3", scanned, None),
    ("1.3", walking(-1.0), "you climb"),
    ("1.3", walking(5.0), "a mean already"),
    ("1.3", walking(one_by_one=True), "take all gradients first"),
    ("1.3", walking(count=1), "one step too many"),
    ("1.3", walking(drop_top=True), "all 3 activities"),
    ("1.4", first_step(), None),
    ("1.4", by_optax, None),
    ("1.4", lambda g, rate: -rate * jnp.sign(g), None),
    ("1.4", first_step(sign=1), "goes downhill"),
    ("1.4", first_step(correct=False), "bias correction"),
    ("1.4", first_step(epsilon=0.0), "nan"),
    ("1.4", lambda g, rate: -rate * g, "plain gradient descent"),
]
