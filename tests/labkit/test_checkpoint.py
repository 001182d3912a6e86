"""Checkpoints: resuming bit for bit, after kills, damage, a full disk and passing errors."""

import hashlib
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import equinox as eqx
import filelock
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from labkit import checkpoint
from labkit.fit import fit

DATA = np.random.default_rng(0).normal(size=(70, 3)).astype(np.float32)  # 7 batches an epoch
KEY = jax.random.key(1)
SCALE = np.ones(3, np.float32)


def adam(rate=1e-2, total=100):
    return optax.adam(optax.cosine_decay_schedule(rate, total))


def fresh(width=4, seed=0):
    """A state with all that a checkpoint may meet: a network, optimiser, key, counter, text."""
    model = eqx.nn.MLP(3, 1, width, 1, jax.nn.relu, key=jax.random.key(seed))
    return {
        "model": model,
        "optimiser": adam().init(eqx.filter(model, eqx.is_array)),
        "own_key": jax.random.key(7),
        "seen": jnp.int32(0),
        "name": "a text passes through",
    }


def make_step(optimiser=adam(), scale=SCALE, loss_name="loss"):  # noqa: B008

    @jax.jit
    def scaled(x):
        return x * scale  # captured by a function inside

    def step(state, x, key):
        own_key, noise_key = jax.random.split(state["own_key"])
        x = x + 0.1 * jax.random.normal(noise_key, x.shape) + 0.1 * jax.random.normal(key, x.shape)

        def loss(model):
            out = jax.lax.scan(lambda h, _: (jax.nn.relu(scaled(h)), None), x, length=2)[0]
            return jnp.mean((jax.vmap(model)(out)[:, 0] - x.sum(axis=1)) ** 2)

        value, gradients = eqx.filter_value_and_grad(loss)(state["model"])
        updates, optimiser_state = optimiser.update(gradients, state["optimiser"])
        state = state | {
            "model": eqx.apply_updates(state["model"], updates),
            "optimiser": optimiser_state,
            "own_key": own_key,
            "seen": state["seen"] + len(x),
        }
        return state, {loss_name: value}

    return step


def bias(state):
    return {"bias": state["model"].layers[0].bias.sum()}


def train(iterations, folder=None, *, step=None, state=None, data=DATA, **changes):
    settings = dict(key=KEY, batch_size=10, evaluate=bias, every=4, progress=False) | changes
    return fit(step or make_step(), state or fresh(), data, iterations=iterations,
               checkpoints=folder, **settings)  # fmt: skip


def bits(state, history):
    """All that must be equal to the last bit: the state's arrays and the history, times apart."""
    leaves = jax.tree.leaves(eqx.filter(state, eqx.is_array))
    leaves = [checkpoint._raw(leaf) for leaf in leaves]
    leaves += [v for part in history[:2] for _, v in sorted(part.items())]
    return [(str(a.dtype), np.shape(a), np.asarray(a).tobytes()) for a in leaves]


@pytest.fixture
def folder(tmp_path):
    return checkpoint.Checkpoints(tmp_path / "run", every=6, keep=3)


@pytest.fixture(scope="module")
def whole():
    return bits(*train(30))


@pytest.mark.parametrize("first", [6, 7, 13, 30])
def test_interrupted_ends_with_the_bits_of_uninterrupted(folder, whole, first, capsys):
    train(first, folder)
    assert capsys.readouterr().out == ""
    state, history = train(30, folder)
    resumed = first // 6 * 6
    assert capsys.readouterr().out == f"checkpoint: resuming after iteration {resumed} of 30.\n"
    assert bits(state, history) == whole
    assert state["name"] == "a text passes through"
    assert int(state["seen"]) == 300 and history.evaluations["iteration"][-1] == 30


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
    assert bits(*folder.restore(fresh(seed=1), 24)) == bits(*train(24))
    with pytest.raises(ValueError, match=r"no checkpoint 6, only \[18, 24, 30\]"):
        folder.restore(fresh(), 6)
    with pytest.raises(checkpoint.Mismatch, match=r"float32\[4, 3\] there and float32\[5, 3\]"):
        folder.restore(fresh(width=5), 24)
    (folder.path / "18.checkpoint").rename(folder.path / "40.checkpoint")
    with pytest.raises(checkpoint.Mismatch, match="iteration is 18 there and 40 here"):
        train(50, folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(state=fresh(width=5)), r"\['model'\].* float32\[4, 3\] there and float32\[5, 3\]"),
        (dict(state=fresh() | {"more": jnp.zeros(2)}), r"\['more'\] is None there and float32"),
        (dict(state=fresh() | {"seen": jnp.float32(0)}), r"int32\[\] there and float32\[\] here"),
        (dict(state=fresh(seed=1)), "start is"),
        (dict(key=jax.random.key(2)), r"key is \w+ \[0, 1\] there and \w+ \[0, 2\] here"),
        (dict(batch_size=14), "batch_size is 10 there and 14 here"),
        (dict(data=DATA[::-1]), "data is"),
        (dict(step=make_step(adam(rate=1e-1))), "step or its rates is"),
        (dict(step=make_step(adam(total=20))), "step or its rates is"),
        (dict(step=make_step(scale=2 * SCALE)), "step or its rates is"),
        (dict(step=make_step(loss_name="error")), r"metrics is \['loss'\] there and \['error'\]"),
        (dict(evaluate=lambda state: {}), r"evaluations is \['bias'\] there and \[\] here"),
        (dict(evaluate=None), r"evaluations is \['bias'\] there and \[\] here"),
        (dict(iterations=11), "holds 12 iterations, more than 11"),
    ],
)  # fmt: skip
def test_another_run_is_refused_and_told_what_differs(folder, change, words):
    train(12, folder)
    with pytest.raises(checkpoint.Mismatch, match=words):
        train(**dict(iterations=20, folder=folder) | change)
    assert folder.iterations == [6, 12]


def test_other_versions_are_told_and_go_on(folder, capsys, monkeypatch):
    train(12, folder)
    monkeypatch.setattr(jax, "__version__", "9.9")
    train(20, folder)
    assert re.search(r"12 of 20 \(jax is [\d.]+ there and 9.9 here: the last bits may differ\)",
                     capsys.readouterr().out)  # fmt: skip


KINDS = [
    "bfloat16",
    "float16",
    "float8_e4m3fn",
    "float8_e5m2",
    "uint8",
    "bool",
    "complex64",
    "int4",
]


def test_arrays_of_every_kind_come_back(folder):
    """A weak type matters beside bfloat16: a float32 would make it a float32 on resuming."""
    state = {kind: (jnp.arange(6).reshape(2, 3) - 1).astype(kind) for kind in KINDS}
    state |= {
        "empty": jnp.zeros((0, 3)),
        "weak": jnp.asarray(1.0),
        "rbg": jax.random.key(0, impl="rbg"),
    }

    def step(state, x, key):
        grown = state["bfloat16"] * state["weak"] + jax.random.normal(key, (2, 3), "bfloat16")
        mean = grown.mean()
        return state | {"bfloat16": grown, "weak": state["weak"] * 0.5}, {"mean": mean}

    expected = bits(*train(12, step=step, state=state, evaluate=None))
    train(6, folder, step=step, state=state, evaluate=None)
    trained, history = train(12, folder, step=step, state=state, evaluate=None)
    assert bits(trained, history) == expected and history.metrics["mean"].dtype == "bfloat16"
    with pytest.raises(TypeError):
        train(6, checkpoint.Checkpoints(folder.path / "other", every=4),
              evaluate=lambda state: {"what": None})  # fmt: skip


def flip(path, place=None):
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if place is None else place] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "one bit": flip,
    "one bit of the checksum": lambda path: flip(path, 3),
    "one bit of the header": lambda path: flip(path, 70),
    "cut short": lambda path: os.truncate(path, 100),
    "empty": lambda path: os.truncate(path, 0),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\n"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_newest_falls_back_to_the_one_before(folder, whole, damage, capsys):
    train(18, folder)
    damage(folder.path / "18.checkpoint")
    with pytest.raises(checkpoint.Damaged, match="checkpoint 18 is damaged"):
        folder.restore(fresh(), 18)
    assert bits(*train(30, folder)) == whole
    assert capsys.readouterr().out.splitlines() == [
        "checkpoint 18 is damaged (its checksum is wrong): renamed to 18.damaged, not used.",
        "checkpoint: resuming after iteration 12 of 30.",
    ]
    assert folder.iterations == [18, 24, 30] and (folder.path / "18.damaged").is_file()


def test_all_damaged_starts_afresh(folder, whole, capsys):
    train(18, folder)
    for iteration in folder.iterations:
        flip(folder.path / f"{iteration}.checkpoint")
    assert bits(*train(30, folder)) == whole
    assert capsys.readouterr().out.count("is damaged") == 3


def test_a_passing_error_of_reading_is_no_damage(folder, whole):
    """Real ones: no free file descriptor, however many are left, and no right to read."""
    import resource

    train(18, folder)
    files = sorted(os.listdir(folder.path))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    for left in range(2):
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + left, hard))
        try:
            with (
                pytest.raises(OSError, match="Too many open files"),
                folder.training(fresh(), 30, make_step(), DATA, KEY, 10, bias),
            ):
                pass
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert sorted(os.listdir(folder.path)) == files
    assert bits(*train(30, folder)) == whole


def test_two_in_one_folder(folder, whole):
    with filelock.FileLock(folder.path / ".lock"):  # what another process holds
        with pytest.raises(RuntimeError, match="Another training.*uses .*run"):
            train(12, folder)
    assert bits(*train(30, folder)) == whole


def test_bad_arguments(tmp_path, monkeypatch):
    for wrong in (dict(every=0), dict(every=1, keep=0)):
        with pytest.raises(ValueError, match="must be 1 or more"):
            checkpoint.Checkpoints(tmp_path, **wrong)
    (tmp_path / "a file").write_text("")
    with pytest.raises(OSError, match="a file"):
        train(6, checkpoint.Checkpoints(tmp_path / "a file", every=6))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert checkpoint.Checkpoints("~/runs", every=1).path == tmp_path / "runs"


# Real processes, to be killed or to run out of space. Importing JAX takes longer than they live, so
# one process imports it and forks each of them off, before JAX has started any thread.

NURSERY = """
import os, sys
import equinox, jax, optax, pytest, labkit.checkpoint, labkit.fit
for line in sys.stdin:
    if not (child := os.fork()):
        sys.path.insert(0, sys.argv[1])
        import test_checkpoint
        test_checkpoint.train_in_child(*line.split())
        os._exit(0)
    print(child, flush=True)
    os.waitpid(child, 0)
    print("gone", flush=True)
"""
LONG = 900  # iterations, with a checkpoint after every third


def train_in_child(path, iterations, size):
    def evaluate(state):
        if state["seen"]:  # the start is evaluated too, for the names
            print("at", int(state["seen"]) // 10, flush=True)
        return bias(state)

    folder = checkpoint.Checkpoints(path, every=3, keep=4)
    state = fresh() | {"ballast": jnp.zeros(int(size))}
    result = train(int(iterations), folder, state=state, evaluate=evaluate, every=3)
    print("ended", hashlib.sha256(repr(bits(*result)).encode()).hexdigest(), flush=True)


@pytest.fixture
def nursery(tmp_path):
    """nursery(path, iterations, size): the pid of a training process, and the file it writes to."""
    compiled = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", NURSERY, os.path.dirname(__file__)], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | compiled,
    )  # fmt: skip

    def start(path, iterations=LONG, size=500_000):
        print(path, iterations, size, file=process.stdin, flush=True)
        return int(process.stdout.readline()), process.stdout

    yield start
    process.stdin.close()
    process.wait(60)


def lines_until_gone(out):
    lines = []  # the last one is cut short if its writer was killed, with "gone" on the same line
    while not (line := out.readline()).endswith("gone\n"):
        assert line, "the nursery has ended"
        lines.append(line)
    return lines


def test_twenty_five_kills_of_real_processes(nursery, tmp_path):
    """They end with the bits of a process that nobody killed; a second process stays out."""
    *_, uninterrupted = lines_until_gone(nursery(tmp_path / "whole")[1])
    rng, cut_short, path = random.Random(0), 0, tmp_path / "run"
    for attempt in range(25):
        pid, out = nursery(path)
        first = out.readline()
        assert attempt == 0 or first.startswith("checkpoint: resuming after iteration "), first
        for _ in range(rng.randrange(1, 5)):
            began = time.monotonic()
            assert out.readline().startswith("at ")  # it has evaluated, and now it saves
        if attempt == 12:
            with pytest.raises(RuntimeError, match="Another training"):
                train(LONG, checkpoint.Checkpoints(path, every=3))
        time.sleep(rng.uniform(0, time.monotonic() - began))
        os.kill(pid, signal.SIGKILL)
        assert not any(line.startswith("ended") for line in lines_until_gone(out))
        cut_short += any(path.glob(".*.tmp"))
    print(cut_short, "of 25 kills cut a save short")
    assert cut_short >= 3
    lines = lines_until_gone(nursery(path)[1])
    assert lines[0].startswith("checkpoint: resuming after iteration ")
    assert lines[-1] == uninterrupted and uninterrupted.startswith("ended")
    kept = [f"{i}.checkpoint" for i in range(LONG - 9, LONG + 1, 3)]
    assert sorted(os.listdir(path)) == [".lock", *kept]


def test_a_full_disk(tmp_path):
    """A real one: a small tmpfs in a namespace of the child, which is then made larger."""
    full = tmp_path / "full"
    full.mkdir()
    unshare = ["unshare", "-m" if os.getuid() == 0 else "-rm", "sh", "-c"]
    if (
        not shutil.which("unshare")
        or subprocess.run([*unshare, 'mount -t tmpfs none "$0"', str(full)]).returncode
    ):
        pytest.skip("this machine does not let a test mount file systems")
    train_it = [sys.executable, "-W", "ignore", "-c", NURSERY, os.path.dirname(__file__)]
    train_it = f"echo {shlex.quote(str(full))} 60 50000 | {shlex.join(train_it)}"
    script = (
        f'mount -t tmpfs -o size=700k full "$1" && {train_it} >"$0/out1" && ls -A "$1" >"$0/names" '
        f'&& mount -o remount,size=8m "$1" && {train_it} >"$0/out2"'
    )
    subprocess.run([*unshare, script, str(tmp_path), str(full)], check=True)
    first, second = ((tmp_path / name).read_text().splitlines() for name in ("out1", "out2"))
    told = [line for line in first if "could not be saved" in line]
    assert len(told) == 1 and "(No space left on device)" in told[0]  # once, and it goes on
    kept = (tmp_path / "names").read_text().split()
    assert kept == [".lock", "3.checkpoint", "6.checkpoint", "9.checkpoint"]
    assert second[1] == "checkpoint: resuming after iteration 9 of 60."
    assert first[-2] == second[-2] and first[-2].startswith("ended ")
