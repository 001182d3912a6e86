"""What Python does for the live page; the page itself is in tests/site/test_live.py."""

import functools
import re

import numpy as np
import pytest

import tools.live
from labkit import live, plot


@pytest.fixture(scope="module")
def train_once():
    made = functools.cache(tools.live.made)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tools.live, "made", made)
        yield


def test_packed_weights_are_off_by_half_a_step_of_their_row_at_most():
    rng = np.random.default_rng(0)
    W = np.float32(rng.normal(size=(7, 5)) * 10.0 ** np.arange(-3, 4)[:, None])
    W[2] = 0
    bias, images = np.float32(rng.normal(size=7)), np.uint8(rng.integers(0, 256, (3, 784)))
    file = live.pack({"W1": W, "b1": bias, "images": images})
    assert len(file) < 4_000
    arrays = live.unpack(file)
    assert np.all(np.abs(arrays["W1"] - W) <= np.abs(W).max(axis=1, keepdims=True) / 254 * 1.001)
    assert np.array_equal(arrays["b1"], bias) and np.array_equal(arrays["images"], images)


def test_in_8_bits_the_chain_reads_as_well(capsys, train_once):
    weights = tools.live.pc()
    assert [W.shape for W in weights.values()] == [(64, 10), (256, 64), (784, 256)]
    out = re.search(r"reads (.*) % of (.*) test images, in 8 bits (.*) %", capsys.readouterr().out)
    exact, images, rounded = map(float, out.groups())
    assert exact > 50 and abs(exact - rounded) <= max(0.5, 200 / images)


def test_weights_that_8_bits_ruin_are_refused(monkeypatch, train_once):
    monkeypatch.setattr(
        live,
        "unpack",
        lambda file: {
            "W1": np.zeros((64, 10)),
            "W2": np.zeros((256, 64)),
            "W3": np.zeros((784, 256)),
        },
    )
    with pytest.raises(SystemExit, match="nothing is written"):
        tools.live.pc()


def test_a_stored_output_is_a_picture_without_the_weights(monkeypatch):
    shown = []
    monkeypatch.setenv("LABKIT_STATIC", "1")
    monkeypatch.setattr(plot, "images", lambda images, **_: shown.append(images))
    monkeypatch.setattr(live, "display", None)
    weights = [np.eye(64, 10), np.eye(256, 64), np.eye(784, 256)]
    live.chain(weights, np.zeros((1, 784)), [0])
    assert np.array_equal(shown[0], np.eye(10, 784))
