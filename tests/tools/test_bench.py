"""The benchmark: takes the notebooks' own definitions, compares like with like, counts right."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tools import ROOT, bench
from tools.bench.flops import matmul_flops


def test_flops_of_matrix_products():
    a, b = jnp.ones((3, 5)), jnp.ones((5, 7))
    product = 2 * 3 * 5 * 7
    assert matmul_flops(jnp.matmul, a, b) == product
    assert matmul_flops(jax.jit(lambda a, b: (a @ b) * (a @ b)), a, b) == product  # once
    assert matmul_flops(lambda a, b: (a @ b, a @ b + 1)[0] * 2, a, b) == product
    assert matmul_flops(jax.vmap(lambda row: row @ b), a) == product
    cost = jax.jit(jnp.matmul).lower(a, b).compile().cost_analysis()
    assert cost["flops"] == product  # XLA agrees where there is no loop


def test_flops_of_loops():
    x, w = jnp.ones((4, 6)), jnp.ones((6, 6))
    one = 2 * 4 * 6 * 6

    def chain(x, w, fixed):
        def body(x, _):
            return x @ w + fixed @ w, None  # the second product never changes

        return jax.lax.scan(body, x, length=10)[0]

    assert matmul_flops(chain, x, w, x + 1) == 10 * one + one
    nested = lambda x, w: jax.lax.scan(lambda x, _: (chain(x, w, x), None), x, length=3)[0]
    assert matmul_flops(nested, x, w) == 3 * (10 * one + one)
    with pytest.raises(ValueError, match="'while'"):
        matmul_flops(lambda x: jax.lax.while_loop(lambda x: x[0, 0] < 9, lambda x: x @ w, x), x)


def test_slopes_of_power_laws():
    x = 2.0 ** np.arange(3, 11)
    for slope in (0.5, 1.0, 2.0):
        noise = 1 + 0.02 * np.sin(7 * x)
        found, factor, first = bench.power_law(x, 3 * x**slope * noise)
        assert (found, factor) == (pytest.approx(slope, abs=0.02), pytest.approx(3, rel=0.1))
        assert first == 0
    found, _, first = bench.power_law(x, 5 + 0.001 * x**2)  # flat first, then a square
    assert first > 0 and 1.5 < found < 2
    assert bench.power_law(x, np.exp(x / 100)) is None
    assert bench.power_law(x[:3], x[:3]) is None  # too few points to tell


def rows(kind, device, ms):
    about = {"kind": kind, "device": device, "date": "2001-02-03", "dataset": "digits"}
    about |= {"versions": "jax 1", "load": "0.0", "repetitions": 7, "peak": 100.0}
    row = {"model": "PC", "notebook": "01_predictive_coding", "batch_size": 64, "gflops": 25.0}
    for way in bench.WAYS:
        row |= {f"{way}_ms": ms, f"{way}_low": ms - 1, f"{way}_high": ms + 1, f"{way}_ratio": 2.0}
    return [about | row]


def test_rows_of_the_other_kind_of_device_are_kept(tmp_path):
    path = tmp_path / "bench.csv"
    bench.write_rows(path, rows("gpu", "some GPU", 2.0), kept_from=path)
    bench.write_rows(path, rows("cpu", "2-core CPU", 8.0), kept_from=path)
    both = bench.write_rows(path, rows("cpu", "2-core CPU", 9.0), kept_from=path)
    assert [(row["kind"], row["scan_ms"]) for row in both] == [("cpu", "9"), ("gpu", "2")]
    text = bench.table(both, "notebooks/")
    assert "9 (8 to 10)" in text and "some GPU" in text and "| 25 | 25 % |" in text
    assert "(notebooks/01_predictive_coding.ipynb)" in text
    assert "No GPU" not in bench.circumstances(both)
    assert "No GPU was at hand: not measured" in bench.circumstances(both[:1])


def test_the_writer_replaces_only_what_stands_between_its_markers():
    page = "before <!-- status -->kept<!-- /status -->\n<!-- bench -->\nold\n<!-- /bench -->\nafter"
    filled = bench.fill(page, r"new \1")
    assert filled == page.replace("old", r"new \1")
    assert bench.fill(filled, "old") == page
    with pytest.raises(ValueError, match="once, has 0"):
        bench.fill("no markers", "new")
    for page in bench.PAGES:
        assert bench.REGION.search((ROOT / page).read_text("utf-8")), page


def test_what_is_shown_is_what_is_recorded():
    stored = [bench.read_rows(ROOT / bench.RECORDED / f"{n}.csv") for n in ("bench", "bench_cost")]
    if not all(stored):
        pytest.skip("not measured yet: `make bench`")
    for page in bench.PAGES:
        text = (ROOT / page).read_text("utf-8")
        assert bench.fill(text, bench.block(page, *stored)) == text, "run `make bench`"
    assert (ROOT / bench.RECORDED / "bench.png").stat().st_size < 200_000


def test_ways_that_do_not_compute_the_same_are_refused(monkeypatch):
    monkeypatch.setenv("LABKIT_DATASET", "digits")
    model = next(model for model in bench.MODELS if model.name == "generative PC")
    training = bench.training_of(model)
    ways = bench.ways_of(model, training)
    assert bench.check_agreement(model.name, training, ways) > 0
    training.calls["make_step"].learning_rate *= 1.05
    with pytest.raises(ArithmeticError, match="generative PC.*'Loop of updates'"):
        bench.check_agreement(model.name, training, bench.ways_of(model, training))


def test_the_flops_of_notebook_01_are_those_that_it_counts_by_hand(monkeypatch):
    monkeypatch.setenv("LABKIT_DATASET", "digits")
    training = bench.training_of(bench.MODELS[0])
    first, upper = 784 * 300, 300 * 300 + 300 * 10
    by_hand = 128 * (6 * 2 * upper + (first + upper) + (first + 2 * upper))
    assert bench.gigaflops_of(training) == pytest.approx(2e-9 * by_hand, rel=1e-9)
    changed = bench.variants(training, {"width": [40], "depth": [3], "steps": [2], "batch": [8]})
    counts = {name: bench.gigaflops_of(made) for (name, _), made in changed.items()}
    assert counts["batch"] == pytest.approx(2e-9 * by_hand / 16)
    assert counts["width"] < counts["steps"] < 2e-9 * by_hand < counts["depth"]


def test_a_quick_run_measures_everything_and_writes_it_elsewhere(tmp_path):
    command = [sys.executable, "tools/bench.py", "--quick", "--out", tmp_path]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"LABKIT_DATASET": "digits"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    measured = bench.read_rows(tmp_path / bench.RECORDED / "bench.csv")
    assert [row["model"] for row in measured] == [model.name for model in bench.MODELS]
    for row in measured:
        assert row["dataset"] == "digits" and float(row["peak"]) > 0
        assert 0 < float(row["scan_low"]) <= float(row["scan_ms"]) <= float(row["scan_high"])
    costs = bench.read_rows(tmp_path / bench.RECORDED / "bench_cost.csv")
    assert {row["quantity"] for row in costs} == set(bench.PANELS)
    page = (tmp_path / "pages/status.md").read_text("utf-8")
    assert "no power law" in page and "bench.png)" in page  # two points are no law
    for model in bench.MODELS:
        assert f"| {model.name} (" in page and model.name in (tmp_path / "README.md").read_text()
    assert (tmp_path / bench.RECORDED / "bench.png").read_bytes().startswith(b"\x89PNG")
