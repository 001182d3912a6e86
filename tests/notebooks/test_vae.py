"""Notebook 04: the run of a thousand epochs, to its end, on few images."""

import numpy as np

from labkit import data
from tools import ROOT, read, write
from tools.slice import definitions

PATH = ROOT / "notebooks" / "04_variational_autoencoder.ipynb"


def test_the_long_run_ends_and_is_measured_at_its_newest_ten_checkpoints(monkeypatch, tmp_path):
    load = data.load

    def few(name, **options):
        whole = load("digits", **options)
        return whole._replace(
            train_images=whole.train_images[:128], train_labels=whole.train_labels[:128],
            test_images=whole.test_images[:40], test_labels=whole.test_labels[:40],
        )  # fmt: skip

    monkeypatch.setattr(data, "load", few)
    monkeypatch.chdir(tmp_path)
    notebook = read(PATH)
    (cell,) = (cell for cell in notebook.cells if "EPOCHS = DEFAULT\n" in cell.source)
    cell.source = cell.source.replace("EPOCHS = DEFAULT\n", "EPOCHS = 1100\n")
    write(tmp_path / PATH.name, notebook)
    ours = definitions(tmp_path / PATH.name, "model", "measure_checkpoints", "test_elbo")
    assert len(ours["test_elbo"]) == 1100 and ours["per_epoch"] == 1
    rows = ours["measure_checkpoints"]()
    assert rows["epoch"].tolist() == list(range(10, 1101, 10))
    measured = rows["epoch"][np.isfinite(rows["iwae_500"])]
    assert measured.tolist() == list(range(200, 1101, 100)), "the newest ten are kept"
    assert rows["test_elbo"][-1] == ours["test_elbo"][-1] < rows["iwae_500"][-1]
