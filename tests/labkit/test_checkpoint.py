"""Checkpoints: resuming bit for bit, after kills, damage and a full disk."""

import hashlib
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from labkit import checkpoint
from labkit.fit import fit

OPTIMISER = optax.adam(1e-2)
DATA = np.random.default_rng(0).normal(size=(70, 3)).astype(np.float32)  # 7 batches an epoch
KEY = jax.random.key(1)


def fresh(width=4):
    """A state with all that a checkpoint may meet: a network, optimiser, key, counter, text."""
    model = eqx.nn.MLP(3, 1, width, 1, key=jax.random.key(0))
    return {
        "model": model,
        "optimiser": OPTIMISER.init(eqx.filter(model, eqx.is_array)),
        "own_key": jax.random.key(7),
        "seen": jnp.int32(0),
        "name": "a text passes through",
    }


def step(state, x, key):
    own_key, noise_key = jax.random.split(state["own_key"])
    x = x + 0.1 * jax.random.normal(noise_key, x.shape) + 0.1 * jax.random.normal(key, x.shape)

    def loss(model):
        return jnp.mean((jax.vmap(model)(x)[:, 0] - x.sum(axis=1)) ** 2)

    value, gradients = eqx.filter_value_and_grad(loss)(state["model"])
    updates, optimiser = OPTIMISER.update(gradients, state["optimiser"])
    state = state | {
        "model": eqx.apply_updates(state["model"], updates),
        "optimiser": optimiser,
        "own_key": own_key,
        "seen": state["seen"] + len(x),
    }
    return state, {"loss": value}


def evaluate(state):
    return {"bias": state["model"].layers[0].bias.sum()}


def train(iterations, folder=None, state=None, key=KEY, batch_size=10):
    return fit(
        step, fresh() if state is None else state, DATA, key=key, batch_size=batch_size,
        iterations=iterations, evaluate=evaluate, every=4, checkpoints=folder, progress=False,
    )  # fmt: skip


def bits(state, history):
    """All that must be equal to the last bit: the state's arrays and the history, times apart."""
    leaves = jax.tree.leaves(eqx.filter(state, eqx.is_array))
    leaves = [jax.random.key_data(a) if checkpoint._is_key(a) else a for a in leaves]
    leaves += [*history.metrics.values(), *history.evaluations.values()]
    return [(str(np.asarray(a).dtype), np.shape(a), np.asarray(a).tobytes()) for a in leaves]


@pytest.fixture
def folder(tmp_path):
    return checkpoint.Folder(tmp_path / "run", every=6, keep=3)


@pytest.fixture(scope="module")
def whole():
    return bits(*train(30))


@pytest.mark.parametrize("first", [6, 7, 13, 24, 30])
def test_interrupted_ends_with_the_bits_of_uninterrupted(folder, whole, first, capsys):
    train(first, folder)
    assert capsys.readouterr().out == ""
    state, history = train(30, folder)
    resumed = first // 6 * 6
    assert capsys.readouterr().out == f"checkpoint: resuming after iteration {resumed} of 30.\n"
    assert bits(state, history) == whole
    assert state["name"] == "a text passes through"
    assert int(state["seen"]) == 300 and len(history.metrics["loss"]) == 30


def test_history_of_times_adds_up(folder):
    _, before = train(12, folder)
    _, after = train(12, folder)  # nothing left to do
    assert after.seconds == before.seconds
    _, after = train(18, folder)
    assert after.seconds > before.seconds and after.compile_seconds > before.compile_seconds


def test_the_newest_are_kept_and_can_be_looked_at(folder):
    assert folder.iterations == []
    train(30, folder)
    assert folder.iterations == [18, 24, 30]
    assert bits(*folder.restore(fresh(), 24)) == bits(*train(24))
    with pytest.raises(ValueError, match=r"no checkpoint of iteration 6; it has \[18, 24, 30\]"):
        folder.restore(fresh(), 6)
    assert sorted(os.listdir(folder.path)) == ["18", "24", "30"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(state=fresh(width=5)), r"another architecture: state\['model'\].* float32\[4, 3\] "
         r"there and float32\[5, 3\] here"),
        (dict(state=fresh() | {"more": jnp.zeros(2)}), "missing there and float32\\[2\\] here"),
        (dict(state=fresh() | {"seen": jnp.float32(0)}), r"int32\[\] there and float32\[\] here"),
        (dict(key=jax.random.key(2)), r"another run: key is \[0, 1\] there and \[0, 2\] here"),
        (dict(batch_size=14), "another run: batch_size is 10 there and 14 here"),
        (dict(iterations=11), "a run of 12 iterations, more than the 11 asked for"),
    ],
)  # fmt: skip
def test_another_run_is_refused(folder, change, words):
    train(12, folder)
    with pytest.raises(checkpoint.Mismatch, match=words) as error:
        train(**dict(iterations=20, folder=folder) | change)
    assert "another" in str(error.value) and "delete" in str(error.value)
    assert folder.iterations == [6, 12]


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def largest(folder):
    return max(folder.rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else 0)


DAMAGE = {
    "one bit": lambda folder: flip(largest(folder)),
    "cut short": lambda folder: os.truncate(largest(folder), 10),
    "a file missing": lambda folder: largest(folder).unlink(),
    "an item missing": lambda folder: shutil.rmtree(folder / "about"),
    "empty metadata": lambda folder: (folder / "arrays" / "_METADATA").write_text(""),
    "empty checksums": lambda folder: (folder / checkpoint.SEAL).write_text(""),
    "empty folder": lambda folder: [shutil.rmtree(folder), folder.mkdir()],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_newest_falls_back_to_the_one_before(folder, whole, damage, capfd):
    train(18, folder)
    damage(folder.path / "18")
    with pytest.raises(checkpoint.Damaged, match="iteration 18 is damaged"):
        folder.restore(fresh(), 18)
    capfd.readouterr()
    assert bits(*train(30, folder)) == whole
    out = capfd.readouterr().out.splitlines()
    assert out[0].startswith("checkpoint: that of iteration 18 is damaged (")
    assert out[0].endswith("put aside as 18.damaged, the one before is taken.")
    assert out[1:] == ["checkpoint: resuming after iteration 12 of 30."]
    assert folder.iterations == [18, 24, 30]
    assert (folder.path / "18.damaged").is_dir()


def test_all_damaged_starts_afresh(folder, whole, capsys):
    train(18, folder)
    for iteration in folder.iterations:
        flip(largest(folder.path / str(iteration)))
    assert bits(*train(30, folder)) == whole
    assert capsys.readouterr().out.count("is damaged") == 3


def test_a_checkpoint_without_checksums_counts(folder, capsys):
    """A process killed after Orbax's save and before the checksums leaves this."""
    train(12, folder)
    (folder.path / "12" / checkpoint.SEAL).unlink()
    train(18, folder)
    assert "resuming after iteration 12" in capsys.readouterr().out


def test_bad_arguments(tmp_path):
    for wrong in (dict(every=0), dict(every=1, keep=0)):
        with pytest.raises(ValueError, match="must be 1 or more"):
            checkpoint.Folder(tmp_path, **wrong)
    (tmp_path / "a file").write_text("")
    with pytest.raises(OSError, match="could not be saved in .*a file"):
        train(6, checkpoint.Folder(tmp_path / "a file", every=6))


# A real process, to be killed or to run out of space.

DRIVER = """
import sys
sys.path.insert(0, sys.argv[1])
import test_checkpoint as t

def evaluate(state):
    print("at", int(state["seen"]) // 10, flush=True)
    return t.evaluate(state)

folder = t.checkpoint.Folder(sys.argv[2], every=3, keep=4)
result = t.fit(
    t.step, t.fresh(), t.DATA, key=t.KEY, batch_size=10, iterations=int(sys.argv[3]),
    evaluate=evaluate, every=3, checkpoints=folder, progress=False,
)
print("ended", t.digest(*result), flush=True)
"""
LONG = 600  # iterations, so 200 checkpoints: some seconds


def digest(state, history):
    return hashlib.sha256(repr(bits(state, history)).encode()).hexdigest()


def process(folder, iterations=LONG, **environment):
    """A training process; its first line of output has come when this returns."""
    command = [sys.executable, "-c", DRIVER, os.path.dirname(__file__), str(folder)]
    child = subprocess.Popen(
        [*command, str(iterations)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | environment,
    )  # fmt: skip
    child.first = child.stdout.readline()
    return child


def saving(folder):
    return any(folder.glob("*.orbax-checkpoint-tmp*"))


def kill_again_and_again(folder, seed, report, compiled):
    """Ten kills, at random moments; every other one between two saves, most likely in one."""
    rng = random.Random(seed)
    for attempt in range(10):
        child, wait = process(folder, **compiled), 0.4
        if attempt % 2:
            for _ in range(rng.randrange(2, 10)):
                began = time.monotonic()
                child.stdout.readline()  # "at ...": it evaluates, and then it saves
            wait = time.monotonic() - began  # from one save to the next
        time.sleep(rng.uniform(0, wait))
        alive = child.poll() is None
        child.send_signal(signal.SIGKILL)
        out, err = child.communicate()
        report.append((alive, child.first, saving(folder), err))


def test_twenty_kills_of_a_real_process(tmp_path):
    """Two runs, each killed ten times and then left to end as the run that nobody killed."""
    compiled = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled")}
    store_all = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}  # those to be killed only read
    whole = process(tmp_path / "whole", **compiled, **store_all)
    uninterrupted = whole.communicate()[0].splitlines()[-1]
    reports = [], []
    threads = [
        threading.Thread(
            target=kill_again_and_again, args=(tmp_path / str(n), n, reports[n], compiled)
        )
        for n in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(alive for report in reports for alive, *_ in report)  # all twenty hit a live run
    assert not any(err for report in reports for *_, err in report)
    during_a_save = sum(cut for report in reports for *_, cut, _ in report)
    print(during_a_save, "of 20 kills cut a save short")
    assert during_a_save >= 5  # 9 and 9 in two runs on one core
    for n in range(2):
        last = process(tmp_path / str(n), **compiled)
        assert last.first.startswith("checkpoint: resuming after iteration ")
        assert last.communicate()[0].splitlines()[-1] == uninterrupted
        assert not saving(tmp_path / str(n))


def test_a_full_disk(tmp_path):
    """A real one: a small tmpfs in a namespace of the child, which is then made larger."""
    script = (
        'mount -t tmpfs -o size=300k full "$1" && (cd / && "$@" >"$0/out1" 2>"$0/err1"; true) && '
        'ls -A "$1" >"$0/names" && mount -o remount,size=8m "$1" && "$@" >"$0/out2"'
    )
    full = tmp_path / "full"
    full.mkdir()
    unshare = ["unshare", "-m" if os.getuid() == 0 else "-rm", "sh", "-c"]
    if (
        not shutil.which("unshare")
        or subprocess.run([*unshare, 'mount -t tmpfs none "$0"', str(full)]).returncode
    ):
        pytest.skip("this machine does not let a test mount file systems")
    train_it = [sys.executable, "-c", DRIVER, os.path.dirname(__file__), str(full / "run"), "60"]
    script = script.replace('"$@"', " ".join(map(shlex.quote, train_it)))
    script = script.replace('"$1"', shlex.quote(str(full)))
    subprocess.run([*unshare, script, str(tmp_path)], check=True)
    error = (tmp_path / "err1").read_text()
    assert "could not be saved" in error and "No space left on device" in error
    kept = int(re.search(r"(\d+) earlier checkpoints are intact", error)[1])
    assert 1 <= kept <= 4 and "run the same training again" in error
    assert "During handling" not in error and "direct cause" not in error  # ours, not Orbax's
    second = (tmp_path / "out2").read_text().splitlines()
    assert second[0].startswith("checkpoint: resuming after iteration ")
    whole = process(tmp_path / "whole", 60).communicate()[0].splitlines()
    assert second[-1] == whole[-1] and second[-1].startswith("ended ")
