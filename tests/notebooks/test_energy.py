"""Notebook 05: what its argument rests on, by another way than its own."""

from math import erf

import jax
import numpy as np
import pytest

from labkit.compare import answers
from tools import ROOT
from tools.slice import definitions

PATH = ROOT / "notebooks" / "05_energy_based_model.ipynb"


def test_noise_of_three_values_has_four_moments_of_a_gaussian(monkeypatch):
    """Every byte once: the moments are exact."""
    notebook = definitions(PATH, "three_values")
    every = np.arange(256, dtype=np.uint8)
    monkeypatch.setattr(jax.random, "bits", lambda key, shape, dtype: every.view(dtype)[:shape])
    noise = np.float64(notebook["three_values"](None, (256,)))
    moments = [np.mean(noise**k) for k in (1, 2, 3, 4)]
    np.testing.assert_allclose(moments, [0, 1, 0, 128 / 43], atol=1e-6)
    assert abs(moments[3] - 3) < 0.03


def test_annealing_with_one_level_is_importance_sampling_and_many_find_log_z():
    """On an energy whose log Z is known: independent pixels."""
    notebook = definitions(PATH, "annealed_log_Z")
    pull = np.array([0.5, -1.0, 2.0, 0.0, 1.0, -0.3, 0.7, 1.5, -2.0], np.float32)
    exact = np.sum(np.log(2 * np.cosh(pull)))
    energy = lambda x: -(x @ pull)  # noqa: E731
    off = [
        np.array([
            float(notebook["annealed_log_Z"](energy, jax.random.key(seed), levels)[0]) - exact
            for seed in range(8)
        ])
        for levels in (1, 60)
    ]  # fmt: skip
    assert np.abs(off[1]).max() < 0.2 and np.sqrt(np.mean(off[1] ** 2)) < np.std(off[0])


def test_the_density_of_noisy_points_is_the_pixels_blurred():
    """By summing over all pixels one at a time, without a matrix."""
    notebook = definitions(PATH, "noisy_surprise", "ink_of_one")
    ink, point, sigma = notebook["ink_of_one"], np.array([0.3, -0.7]), 0.2

    def share(low, at):
        ends = [erf((edge - at) / sigma / np.sqrt(2)) / 2 for edge in (low, low + 0.2)]
        return ends[1] - ends[0]

    density = 0.0
    for row in range(28):
        for column in range(28):
            left, bottom = (column - 14) / 5, (13 - row) / 5
            density += 25 * ink[row, column] * share(left, point[0]) * share(bottom, point[1])
    assert notebook["noisy_surprise"](point[None], sigma) == pytest.approx(-np.log(density))


def test_levels_are_found_that_were_lost():
    """Energies of ten Gaussians with their constants taken away: the right label needs them."""
    notebook = definitions(PATH, "fit_levels")
    random = np.random.default_rng(0)
    labels = random.integers(0, 10, 4000)
    means, constants = random.normal(size=(10, 6)) * 3, random.normal(size=10) * 5
    x = means[labels] + random.normal(size=(4000, 6))
    true = 0.5 * np.sum((x[:, None] - means) ** 2, axis=2)
    levels, temperature = notebook["fit_levels"](np.float32(true + constants), labels)
    right = np.mean((true + constants).argmin(1) == labels), np.mean(true.argmin(1) == labels)
    assert right[0] < 0.92 < 0.97 < right[1]
    assert np.mean((true + constants + np.asarray(levels)).argmin(1) == labels) > right[1] - 0.01
    assert 0.5 < temperature < 2


def test_five_trainings_on_ten_digits_hold():
    names = "05_ten_digits", "05_ten_lengths"
    table, lengths = (answers.measured(name, dict, long=True) for name in names)
    assert sorted(set(table["seed"])) == sorted(set(lengths["seed"])) == list(range(5))
    for seed in range(5):
        last = {name: column[table["seed"] == seed][-1] for name, column in table.items()}
        assert last["iteration"] == 3000 and last["frechet"] <= 25 and last["entropy"] >= 2.25
        far = lengths["frechet"][lengths["seed"] == seed]
        assert lengths["steps"][lengths["seed"] == seed][-1] == 1000 and far[-1] <= 2 * far.min()
