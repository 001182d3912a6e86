"""Notebook 02: its argument holds without its code."""

import numpy as np


def relu(z):
    return z * (z > 0)


def test_inference_above_the_limit_of_the_curvature_does_not_settle():
    """Section 5: the limit 2/λ_max of the curvature matrix, on a network whose units stay on."""
    rng = np.random.default_rng(0)
    W2, W3 = (np.abs(rng.normal(size=s)) * 0.5 for s in ((6, 4), (9, 6)))
    A = np.block([[np.eye(4) + W2.T @ W2, -W2.T], [-W2, np.eye(6) + W3.T @ W3]])
    p1 = np.full(4, 5.0)
    optimum = np.concatenate([p1, W2 @ p1])  # where all errors are zero
    image = W3 @ (W2 @ p1)

    def distance(rate, steps=400):
        z1, z2 = p1 + 1e-3, W2 @ p1 - 1e-3
        for _ in range(steps):
            e1, e2, e3 = z1 - p1, z2 - W2 @ z1, image - W3 @ z2
            z1, z2 = z1 + rate * (W2.T @ e2 - e1), z2 + rate * (W3.T @ e3 - e2)
            if not np.all(np.abs(np.concatenate([z1, z2])) < 1e9):
                return np.inf
        return np.linalg.norm(np.concatenate([z1, z2]) - optimum)

    limit = 2 / np.linalg.eigvalsh(A).max()
    assert distance(0) > distance(0.98 * limit)
    assert distance(1.02 * limit) > distance(0)


def test_local_rules_draw_ten_clean_digits_in_five_epochs_of_the_embedded_digits():
    """Section 6 in plain NumPy: no line shared with the notebook."""
    from labkit import data

    digits = data.load("digits")
    images = digits.train_images.reshape(-1, 784).astype(np.float32)
    labels = np.eye(10, dtype=np.float32)[digits.train_labels]
    rng = np.random.default_rng(5)
    W1, W2, W3 = (
        rng.normal(0, 0.05, shape).astype(np.float32) for shape in ((64, 10), (256, 64), (784, 256))
    )
    for _ in range(5):
        order = rng.permutation(len(images))
        for start in range(0, len(images), 50):
            x, y = labels[order[start : start + 50]], images[order[start : start + 50]]
            z1 = x @ W1.T
            z2 = relu(z1) @ W2.T
            for _ in range(20):
                e1, e2, e3 = z1 - x @ W1.T, z2 - relu(z1) @ W2.T, y - relu(z2) @ W3.T
                z1, z2 = (
                    z1 + 0.05 * ((z1 > 0) * (e2 @ W2) - e1),
                    z2 + 0.05 * ((z2 > 0) * (e3 @ W3) - e2),
                )
            e1, e2, e3 = z1 - x @ W1.T, z2 - relu(z1) @ W2.T, y - relu(z2) @ W3.T
            W1, W2, W3 = (
                W1 + 0.005 * e1.T @ x,
                W2 + 0.005 * e2.T @ relu(z1),
                W3 + 0.005 * e3.T @ relu(z2),
            )
    drawn = relu(relu(np.eye(10) @ W1.T) @ W2.T) @ W3.T
    means = np.stack([images[digits.train_labels == c].mean(axis=0) for c in range(10)])
    distances = ((drawn[:, None] - means) ** 2).mean(axis=-1)
    assert distances.argmin(axis=1).tolist() == list(range(10))
    assert np.diag(distances).max() < 0.002
