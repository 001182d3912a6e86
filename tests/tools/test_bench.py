"""The benchmark: all ways compute the same, products are counted right, tables show the record."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from tools import ROOT, fill
from tools.bench import measure


@pytest.fixture(scope="module")
def pc():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABKIT_DATASET", "digits")
        *where, _ = measure.MODELS["PC"]
        yield measure.training_of(*where[:2], *where[2])


def test_flops_count_what_is_computed_as_often_as_it_is():
    a, b, x, w = jnp.ones((3, 5)), jnp.ones((5, 7)), jnp.ones((4, 6)), jnp.ones((6, 6))
    product, one = 2 * 3 * 5 * 7, 2 * 4 * 6 * 6
    assert measure.product_flops(jnp.matmul, a, b) == product
    assert measure.product_flops(lambda a, b: (a @ b, a @ b + 1)[0] * 2, a, b) == product
    assert measure.product_flops(jax.vmap(lambda row: row @ b), a) == product

    def chain(x, w, fixed):
        turn = lambda x, _: (x @ w + fixed @ w, None)  # the second product never changes
        return jax.lax.scan(turn, x, length=10)[0]

    assert measure.product_flops(chain, x, w, x + 1) == 10 * one + one
    endless = lambda x: jax.lax.while_loop(lambda x: x[0, 0] < 9, lambda x: x @ w, x)
    with pytest.raises(ValueError, match="unknown length"):
        measure.product_flops(endless, x)


def test_the_flops_of_notebook_01_are_those_that_it_counts_by_hand(pc):
    first, upper = 784 * 300, 300 * 300 + 300 * 10
    by_hand = 128 * (6 * 2 * upper + (first + upper) + (first + 2 * upper))
    batch = jax.tree.map(lambda a: jnp.asarray(a[:128]), pc.data)
    count = measure.product_flops(pc.step, pc.state, batch, pc.key)
    assert count == 2 * by_hand


def test_all_ways_of_predictive_coding_agree_in_float64_on_an_old_processor_too():
    script = (
        "from tools.bench import measure\n"
        "*of, loops_of = measure.MODELS['PC']\n"
        "training = measure.training_of(*of[:2], *of[2])\n"
        "ways = {way: loop for way, loop in loops_of(training).items() if loop}\n"
        "ways['steps'] = measure.loop_of_steps(training.step)\n"
        "print(*ways, *measure.differences(training, ways).values())\n"
        "training.calls['per_example'].rate *= 1.001\n"
        "way = 'loop of updates'\n"
        "try: measure.differences(training, {way: loops_of(training)[way]})\n"
        "except ArithmeticError as error: print('refused:', error)"
    )
    settings = {"LABKIT_DATASET": "digits", "XLA_FLAGS": "--xla_cpu_max_isa=SSE4_2"}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=os.environ | settings,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "NumPy by hand" in done.stdout
    assert "refused: 'loop of updates' and `fit` differ by" in done.stdout


def test_every_training_that_is_timed_is_caught_in_its_notebook(monkeypatch):
    monkeypatch.setenv("LABKIT_DATASET", "digits")
    for notebook, made, uses, _ in measure.MODELS.values():
        training = measure.training_of(notebook, made, *uses)
        assert training.batch_size >= 50 and len(training.data[0]), notebook
        assert all(hasattr(training.nb, name) for name in uses)


def test_a_quick_run_writes_table_and_figure_elsewhere_and_keeps_rows_of_a_gpu(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("LABKIT_DATASET", "digits")
    monkeypatch.setattr(measure, "MODELS", {"PC": measure.MODELS["PC"]})
    before = (ROOT / "pages" / "status.md").read_bytes()
    pages = tmp_path / "pages"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "PANELS", {q: measure.PANELS[q] for q in ("width", "batch")})
        measure.main(["--quick", "--out", str(tmp_path)])
    assert (ROOT / "pages" / "status.md").read_bytes() == before
    rows = measure.read_rows(pages / "bench.csv")
    assert {"NumPy by hand", "loop of updates", measure.STEPS, measure.OURS} <= {
        row["way"] for row in rows if row["wall_ms"]
    }
    for row in filter(lambda row: row["wall_ms"], rows):
        assert row["dataset"] == "digits" and float(row["peak"]) > 0 and float(row["cpu_ms"]) > 0
        assert 0 < float(row["wall_low"]) <= float(row["wall_ms"]) <= float(row["wall_high"])
    assert (pages / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert measure.table(rows) in (pages / "status.md").read_text("utf-8")
    gpu = rows[-1] | {"kind": "gpu", "device": "some GPU"}
    both = measure.write_rows(pages / "bench.csv", [gpu], pages / "bench.csv")
    assert both == [gpu, *rows] and "some GPU" in measure.table(both)


def test_what_is_shown_is_what_is_recorded():
    rows, page = measure.read_rows(ROOT / "pages" / "bench.csv"), ROOT / "pages" / "status.md"
    text = page.read_text("utf-8")
    shown = measure.table(rows) if rows else "Not measured yet: `make bench`, on an idle machine."
    assert fill(text, "bench", shown) == text, "run `make bench`"


def test_a_missing_rival_is_a_dash(pc, monkeypatch):
    monkeypatch.setattr(measure, "torch", None)
    ways = measure.predictive_coding(pc)
    assert [way for way, loop in ways.items() if loop is None] == ["PyTorch", "PyTorch, compiled"]
    about = dict.fromkeys(["device", "date", "versions", "dataset", "turns", "peak", "load"], "1")
    row = about | {"kind": "cpu", "model": "PC", "notebook": "01", "way": "PyTorch", "wall_ms": ""}
    assert measure.table([row]).endswith("| PyTorch | – | – | – | – |")
