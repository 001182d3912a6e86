"""labkit.fit against plain loops, when it is interrupted, and in a notebook."""

import os
import signal
import threading

import jax
import jax.numpy as jnp
import nbconvert
import nbformat
import numpy as np
import optax
import pytest
from nbclient import NotebookClient

from labkit.fit import Diverged, fit

N, WIDTH, BATCH = 40, 3, 8


def problem():
    """A linear regression: data, a step, a starting state."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, WIDTH)).astype(np.float32)
    y = (x @ np.array([1.0, -2.0, 0.5]) + 0.1 * rng.normal(size=N)).astype(np.float32)

    def step(state, batch, key):
        weights, rate = state["weights"], state["rate"]
        x, y = batch
        error = y - x @ weights
        moved = weights + rate * x.T @ error / len(x)
        chance = jax.random.uniform(key)
        return {**state, "weights": moved}, {"loss": jnp.mean(error**2), "chance": chance}

    return (x, y), step, {"weights": jnp.zeros(WIDTH), "rate": 0.1, "name": "not an array"}


def order_of(key, epoch):
    """The permutation that the docstring promises: drawn on the device, once an epoch."""
    epoch_key = jax.random.fold_in(key, epoch)
    return np.asarray(jax.random.permutation(jax.random.fold_in(epoch_key, 0), N))


def test_equals_a_numpy_loop_in_float64():
    (x, y), step, state = problem()
    key = jax.random.key(3)
    trained, history = fit(step, state, (x, y), key=key, batch_size=BATCH, epochs=3, progress=False)
    weights, losses = np.zeros(WIDTH), []
    for epoch in range(3):
        for rows in order_of(key, epoch).reshape(-1, BATCH):
            error = y[rows].astype(float) - x[rows].astype(float) @ weights
            losses.append(np.mean(error**2))
            weights = weights + 0.1 * x[rows].T @ error / BATCH
    np.testing.assert_allclose(trained["weights"], weights, rtol=1e-5)
    np.testing.assert_allclose(history.metrics["loss"], losses, rtol=1e-5)
    assert trained["name"] == "not an array"


def test_every_example_once_an_epoch_and_another_order_each():
    def step(state, batch, key):
        return state, {"seen": batch}

    _, history = fit(step, jnp.zeros(()), jnp.arange(N), key=jax.random.key(0),
                     batch_size=BATCH, epochs=2, progress=False)  # fmt: skip
    first, second = history.metrics["seen"].reshape(2, N)
    assert sorted(first) == sorted(second) == list(range(N))
    assert list(first) != list(second)


def test_keys_differ_from_step_to_step_and_repeat_from_run_to_run():
    data, step, state = problem()
    settings = dict(key=jax.random.key(1), batch_size=BATCH, epochs=2, progress=False)
    runs = [fit(step, state, data, **settings)[1].metrics["chance"] for _ in range(2)]
    assert len(set(runs[0].tolist())) == 10
    np.testing.assert_array_equal(*runs)


@pytest.mark.parametrize("every", [1, 3, 4, 5, 7])
def test_evaluating_more_often_changes_nothing(every):
    data, step, state = problem()
    settings = dict(key=jax.random.key(1), batch_size=BATCH, iterations=12, progress=False)
    plain, _ = fit(step, state, data, **settings)
    seen = []

    def evaluate(state):
        seen.append(np.asarray(state["weights"]))
        return {"norm": float(np.linalg.norm(seen[-1]))}

    trained, history = fit(step, state, data, **settings, evaluate=evaluate, every=every)
    np.testing.assert_array_equal(trained["weights"], plain["weights"])
    assert history.metrics["loss"].shape == (12,)
    expected = sorted({*range(every, 13, every), 12})
    assert history.evaluations["iteration"].tolist() == expected
    np.testing.assert_allclose(history.evaluations["norm"], [np.linalg.norm(w) for w in seen])


def test_evaluates_after_each_epoch_by_default():
    data, step, state = problem()
    _, history = fit(step, state, data, key=jax.random.key(0), batch_size=BATCH, epochs=3,
                     evaluate=lambda state: {"one": 1.0}, progress=False)  # fmt: skip
    assert history.evaluations["iteration"].tolist() == [5, 10, 15]


def test_your_arrays_stay_yours():
    data, step, state = problem()
    fit(step, state, data, key=jax.random.key(0), batch_size=BATCH, epochs=1, progress=False)
    np.testing.assert_array_equal(state["weights"], np.zeros(WIDTH))


def test_typed_keys_and_optimiser_states_may_be_in_the_state():
    data, _, _ = problem()
    optimiser = optax.adam(0.1)
    weights = jnp.zeros(WIDTH)

    def step(state, batch, key):
        weights, optimiser_state, own_key = state
        gradient = jax.grad(lambda w: jnp.mean((batch[1] - batch[0] @ w) ** 2))(weights)
        updates, optimiser_state = optimiser.update(gradient, optimiser_state)
        own_key, _ = jax.random.split(own_key)
        return (weights + updates, optimiser_state, own_key), {"norm": jnp.linalg.norm(gradient)}

    state = weights, optimiser.init(weights), jax.random.key(0)
    (_, _, key), history = fit(step, state, data, key=jax.random.key(0), batch_size=BATCH,
                               epochs=20, progress=False)  # fmt: skip
    assert history.metrics["norm"][-5:].mean() < 0.3 * history.metrics["norm"][:5].mean()
    assert not np.array_equal(jax.random.key_data(key), jax.random.key_data(jax.random.key(0)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_stops_at_the_first_metric_that_is_not_finite(bad):
    def step(count, batch, key):
        return count + 1, {"fine": 1.0 * count, "loss": jnp.where(count == 7, bad, 1.0)}

    # Five iterations an epoch; the eighth is the third of epoch 2.
    with pytest.raises(Diverged, match=r"loss became (nan|inf) at epoch 2, step 3 \(iteration 8\)"):
        fit(step, jnp.zeros((), int), jnp.zeros(N), key=jax.random.key(0), batch_size=BATCH,
            epochs=3, progress=False)  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(batch_size=BATCH), "either epochs=... or iterations="),
        (dict(batch_size=BATCH, epochs=1, iterations=1), "either epochs=... or iterations="),
        (dict(batch_size=BATCH, epochs=0), "both must be 1 or more"),
        (dict(batch_size=N + 1, epochs=1), "between 1 and 40"),
        (dict(batch_size=0, epochs=1), "between 1 and 40"),
        (dict(batch_size=BATCH, epochs=1, every=0), "evaluate after how many"),
    ],
)
def test_bad_settings_say_what_to_do(settings, message):
    data, step, state = problem()
    with pytest.raises(ValueError, match=message):
        fit(step, state, data, key=jax.random.key(0), **settings)


def test_data_of_unequal_length():
    _, step, state = problem()
    with pytest.raises(ValueError, match="first axis of the same length"):
        fit(step, state, (np.zeros((4, 3)), np.zeros(5)), key=jax.random.key(0), batch_size=2,
            epochs=1)  # fmt: skip


def test_an_interrupt_leaves_the_start_as_it_was():
    """As ■ does in a notebook: SIGINT while compiling, and while training."""
    data, step, state = problem()
    settings = dict(key=jax.random.key(1), batch_size=BATCH, progress=False)
    expected, _ = fit(step, state, data, iterations=50, **settings)
    for seconds in (0.1, 0.3, 1.0):
        timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            timer.start()
            fit(step, state, data, iterations=10**9, every=100, **settings)
        trained, _ = fit(step, state, data, iterations=50, **settings)
        np.testing.assert_array_equal(trained["weights"], expected["weights"])


def test_in_a_notebook_progress_is_one_line_of_text():
    cell = "import test_fit as t\ndata, step, state = t.problem()\n" + (
        "_ = t.fit(step, state, data, key=t.jax.random.key(0), batch_size=8, epochs=12)"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    NotebookClient(notebook, resources={"metadata": {"path": os.path.dirname(__file__)}}).execute()
    (output,) = notebook.cells[0].outputs  # nothing on stderr, which a notebook shows in red
    assert list(output.data) == ["text/plain"] and output.output_type == "display_data"
    assert "100%" in output.data["text/plain"] and "60/60" in output.data["text/plain"]
    page, _ = nbconvert.HTMLExporter().from_notebook_node(notebook)
    assert page.count("it/s") == 1


def test_iterations_that_end_within_an_epoch_are_compiled_once():
    (x, y), step, state = problem()
    traced = []

    def counted(*arguments):
        traced.append(1)
        return step(*arguments)

    settings = dict(key=jax.random.key(0), batch_size=BATCH, progress=False)
    _, history = fit(counted, state, (x, y), epochs=3, **settings)  # 15 iterations
    assert len(traced) == 1
    _, beginning = fit(counted, state, (x, y), iterations=12, **settings)  # 3 scans of 4
    assert len(traced) == 2
    np.testing.assert_array_equal(beginning.metrics["loss"], history.metrics["loss"][:12])
    fit(counted, state, (x, y), iterations=7, **settings)  # no equal parts: 5 and 2
    assert len(traced) == 4
