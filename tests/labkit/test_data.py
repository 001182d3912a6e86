"""labkit.data against a real HTTP server on this machine, killed processes and full disks.

The tests write small IDX files and tell torchvision their checksums; nothing leaves the machine.
"""

import gzip
import hashlib
import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np
import pytest

from labkit import data
from tools import ROOT

FILES = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz",
         "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")  # fmt: skip
OFFICIAL = ROOT.parent / "shared" / "mnist"


def make(seed):
    """Arrays (uint8) of a small dataset, and its four IDX files by name."""
    rng = np.random.default_rng(seed)
    arrays = []
    for n in (200, 50):
        arrays.append(rng.integers(0, 256, (n, 28, 28), dtype=np.uint8))
        arrays.append(rng.permutation(np.arange(n, dtype=np.uint8) % 10))
    headers = [bytes([0, 0, 8, a.ndim]) + np.array(a.shape, ">i4").tobytes() for a in arrays]
    bodies = [gzip.compress(h + a.tobytes()) for h, a in zip(headers, arrays, strict=True)]
    return arrays, dict(zip(FILES, bodies, strict=True))


ARRAYS, GOOD = make(1)
OTHER = make(2)[1]  # well-formed, but not what the checksums promise


def checksums(files):
    return [(name, hashlib.md5(body).hexdigest()) for name, body in files.items()]


def expected(arrays):
    return [a.astype(np.float32) / np.float32(255) if a.ndim == 3 else a.astype(np.int32)
            for a in arrays]  # fmt: skip


def is_right(dataset):
    for got, want in zip(dataset[:4], expected(ARRAYS), strict=True):
        assert got.dtype == want.dtype and np.array_equal(got, want)
    return True


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`; `how` spoils it: 'short', 'drip', 'half' (then waits), 'meet' (two clients).

    torchvision asks twice for each file: first only to follow redirections.
    """

    daemon_threads = True

    def __init__(self, files, how="well"):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.how, self.seen = files, how, []
        self.over, self.pair = threading.Event(), threading.Barrier(2)
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}).start()

    def close(self):
        self.over.set()
        self.shutdown()
        self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        how, path = self.server.how, self.path.strip("/")
        self.server.seen.append(path)
        if how == "meet" and path in ("start", FILES[-1]):
            self.server.pair.wait(60)
        body = b"" if path == "start" else self.server.files.get(path)
        if body is None:
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            if how == "drip":
                for i in range(len(body)):
                    self.wfile.write(body[i : i + 1])
                    if self.server.over.wait(0.1):
                        return None
            self.wfile.write(body[: len(body) // 2] if how in ("short", "half") else body)
            if how == "half":
                self.server.over.wait(60)
        except OSError:  # the client has gone
            self.close_connection = True

    def log_message(self, *args):
        pass


class Silent:
    """Accepts connections and never answers."""

    def __init__(self):
        self.listener, self.seen = socket.create_server(("127.0.0.1", 0)), []
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        try:
            while True:
                self.seen.append(self.listener.accept()[0])
        except OSError:
            pass

    def close(self):
        self.listener.close()
        for connection in self.seen:
            connection.close()


@pytest.fixture
def serve():
    servers = []

    def start(*args):
        servers.append(Silent() if args == ("silent",) else Server(*args))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(autouse=True)
def a_new_session(monkeypatch):
    """What was said in an earlier test is said again."""
    monkeypatch.setattr(data, "_said", set())


@pytest.fixture
def clean(tmp_path, monkeypatch):
    """An empty LABKIT_DATA, no other LABKIT_ variable, temporary files apart."""
    for name in ("LABKIT_MIRROR", "LABKIT_DATASET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("no_proxy", "*")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    yield tmp_path / "data"
    assert not list((tmp_path / "tmp").glob(f"{data.SCRATCH}*"))  # whatever happened, no litter


@pytest.fixture
def folder(clean, monkeypatch):
    """`clean`, and torchvision expects the tests' files and has no mirrors of its own."""
    from torchvision import datasets

    for kind in (datasets.MNIST, datasets.FashionMNIST, datasets.KMNIST):
        monkeypatch.setattr(kind, "resources", checksums(GOOD))
        monkeypatch.setattr(kind, "mirrors", [])
    return clean


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


# ---------------------------------------------------------------------- downloads


def test_good_mirror_then_without_it(folder, serve, monkeypatch, capsys):
    from torchvision import datasets

    server, second = serve(GOOD), serve(GOOD)
    monkeypatch.setattr(datasets.MNIST, "mirrors", [second.url + "/"])
    monkeypatch.setenv("LABKIT_MIRROR", server.url)
    monkeypatch.setattr(data, "TIMEOUT", 3)
    timeouts = []
    connect = socket.create_connection
    monkeypatch.setattr(socket, "create_connection", lambda *a, **k: (
        timeouts.append(socket.getdefaulttimeout()), connect(*a, **k))[1])  # fmt: skip
    first = data.load()
    assert is_right(first) and first.name == "mnist"
    out, err = capsys.readouterr()
    assert out == "labkit: downloading mnist …\n" and err == ""
    assert set(timeouts) == {3} and socket.getdefaulttimeout() is None
    assert names(folder) == ["mnist.npz"]
    seen = len(server.seen)
    assert seen and not second.seen
    assert is_right(data.load()) and len(server.seen) == seen
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("how, reason, longest", [
    ("404", "404", 4), ("wrong", "wrong checksum", 4), ("short", "wrong checksum", 4),
    ("silent", "timed out", 9), ("drip", "timed out", 6), ("refused", "refused", 4),
])  # fmt: skip
def test_bad_mirror(how, reason, longest, folder, serve, monkeypatch, capsys):
    server = serve("silent") if how == "silent" else serve(
        {"404": {}, "wrong": OTHER}.get(how, GOOD), how)  # fmt: skip
    if how == "refused":
        server.close()
        monkeypatch.setattr(server, "close", lambda: None)
    if how == "drip":
        monkeypatch.setattr(data, "STALL", 2)
    monkeypatch.setenv("LABKIT_MIRROR", server.url)
    monkeypatch.setenv("LABKIT_DATASET", "mnist")
    start = time.monotonic()
    with pytest.raises(data.DataUnavailable, match=reason) as caught:
        data.load()
    assert time.monotonic() - start < longest
    assert "LABKIT_MIRROR" in str(caught.value) and str(folder) not in str(caught.value)
    assert names(folder) == []  # nothing half-written, under any name
    assert ("checksum" in capsys.readouterr().out) == ("checksum" in reason)
    if how == "silent":
        assert len(server.seen) == 1  # not asked again for the other place or files

    from torchvision import datasets

    monkeypatch.setattr(datasets.MNIST, "mirrors", [serve(GOOD).url + "/"])
    monkeypatch.setattr(data, "TIMEOUT", 1)
    assert is_right(data.load()) and names(folder) == ["mnist.npz"]


def test_fallback_is_loud(folder, serve, monkeypatch, capsys):
    monkeypatch.setenv("LABKIT_MIRROR", serve({}).url)
    dataset = data.load(digits=[3])
    out = capsys.readouterr().out
    assert dataset.name == "digits" and set(dataset.train_labels) == {3}
    assert "NOT MNIST" in out and "1,797" in out and "404: Not Found" in out
    assert all(way in out for way in ("internet", "LABKIT_MIRROR", "LABKIT_DATA"))
    assert str(folder.parent) not in out and names(folder) == []
    box = out.splitlines()[1:]
    assert len(box) < 14 and len({len(line) for line in box}) == 1 and len(box[0]) < 90


@pytest.mark.parametrize("name", ["fashion_mnist", "kmnist"])
def test_other_datasets(name, folder, serve, monkeypatch, capsys):
    monkeypatch.setenv("LABKIT_DATASET", "digits")  # concerns MNIST only
    with pytest.raises(data.DataUnavailable, match=name):
        data.load(name)
    server = serve({f"{name}/{file}": body for file, body in GOOD.items()})
    monkeypatch.setenv("LABKIT_MIRROR", server.url + "/")
    dataset = data.load(name)
    assert is_right(dataset) and dataset.name == name and names(folder) == [f"{name}.npz"]
    assert dataset.source != data.SOURCES["mnist"]


def test_the_bare_files_of_a_mirror_are_mnist(folder, tmp_path, serve, monkeypatch, capsys):
    for file in FILES:
        (tmp_path / "mirror").mkdir(exist_ok=True)
        (tmp_path / "mirror" / file).write_bytes(GOOD[file])
    for mirror in ((tmp_path / "mirror").as_uri(), serve(GOOD).url):
        monkeypatch.setenv("LABKIT_MIRROR", mirror)
        with pytest.raises(data.DataUnavailable):
            data.load("fashion_mnist")
        assert "checksum" not in capsys.readouterr().out


@pytest.mark.parametrize("place", [".", "mnist", "MNIST/raw"])
def test_four_files_in_the_folder(place, folder, serve, monkeypatch, capsys):
    (folder / place).mkdir(parents=True)
    for file, body in GOOD.items():
        (folder / place / file).write_bytes(body)
    assert is_right(data.load()) and capsys.readouterr().out == ""
    (folder / "mnist.npz").unlink()
    (folder / place / FILES[2]).write_bytes(GOOD[FILES[2]][:-1])
    monkeypatch.setenv("LABKIT_MIRROR", serve(GOOD).url)
    assert is_right(data.load())
    out = capsys.readouterr().out
    assert f"LABKIT_DATA: wrong checksum of {FILES[2]}" in out and "downloading" in out


def test_mirror_that_is_a_folder(folder, tmp_path, monkeypatch):
    mirror = tmp_path / "a b"  # %20 in the URL
    monkeypatch.setenv("LABKIT_MIRROR", mirror.as_uri())
    with pytest.raises(data.DataUnavailable, match="LABKIT_MIRROR: No such file") as caught:
        data.load("kmnist")
    assert str(tmp_path) not in str(caught.value)
    mirror.mkdir()
    for file, body in GOOD.items():
        (mirror / file).write_bytes(body)
    assert is_right(data.load())
    (mirror / "kmnist").mkdir()
    with pytest.raises(data.DataUnavailable, match="No such file"):
        data.load("kmnist")


# ---------------------------------------------------------------------- the stored copy


def spoil(path, how):
    body = bytearray(path.read_bytes())
    if how == "other":
        np.savez(path, **dict.fromkeys(data.Dataset._fields[:4], np.zeros((9, 28, 28), np.uint8)))
        return
    if how == "one bit":
        body[len(body) // 2] ^= 1
    elif how == "hole":  # what a power failure leaves of a file that was never synced
        body[len(body) // 2 :] = bytes(len(body) - len(body) // 2)
    instead = {"half": body[: len(body) // 2], "empty": b"", "text": b"<html>"}
    path.write_bytes(instead.get(how, body))


@pytest.mark.parametrize("how", ["one bit", "half", "hole", "empty", "text", "other"])
def test_damaged_copy(how, folder, serve, monkeypatch, capsys):
    monkeypatch.setenv("LABKIT_MIRROR", serve(GOOD).url)
    data.load()
    spoil(folder / "mnist.npz", how)
    capsys.readouterr()
    assert is_right(data.load())
    out = capsys.readouterr().out
    assert "stored copy of mnist is damaged or unreadable" in out and "downloading" in out
    assert is_right(data.load()) and capsys.readouterr().out == ""
    spoil(folder / "mnist.npz", how)
    monkeypatch.setenv("LABKIT_MIRROR", serve({}).url)
    monkeypatch.setenv("LABKIT_DATASET", "mnist")
    with pytest.raises(data.DataUnavailable):
        data.load()


def test_no_damage_goes_unseen(tmp_path, capsys):
    """A bit flipped anywhere, or a cut at any length: the right arrays, or none."""
    data._store(ARRAYS, "mnist", tmp_path)
    path = tmp_path / "mnist.npz"
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    headers = [i for i in range(len(whole)) if i < 300 or i > len(whole) - 400]
    seen = {"found": 0, "harmless": 0}
    for at in [*headers[::3], *rng.integers(0, len(whole), 100)]:
        for body in (whole[:at], whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :]):
            path.write_bytes(body)
            got = data._stored("mnist", tmp_path)
            seen["found" if got is None else "harmless"] += 1
            assert got is None or all(map(np.array_equal, got, ARRAYS))
    assert seen["found"] > 400 > seen["harmless"]


DRIVER = """
import json, sys, tempfile, urllib.request
from torchvision import datasets
from labkit import data
arguments = json.loads(sys.argv[1])
datasets.MNIST.resources, datasets.MNIST.mirrors = arguments["resources"], []
if "start" in arguments:
    urllib.request.urlopen(arguments["start"]).read()
from tools import ROOT
for folder, temporary in arguments["folders"]:
    os.environ["LABKIT_DATA"], tempfile.tempdir = folder, temporary
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            arrays = data.load()[:4]
            result = hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest()
        except data.DataUnavailable as error:
            result = str(error)
    print(json.dumps([result, out.getvalue()]))
"""
RIGHT = hashlib.sha256(b"".join(a.tobytes() for a in expected(ARRAYS))).hexdigest()


def python(code, *arguments, wrapper=(), **variables):
    return subprocess.Popen(
        [*wrapper, sys.executable, "-c", code, *arguments], text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
    )  # fmt: skip


def driver(*folders, **more):
    folders = [(str(f), str(t)) for f, t in folders]
    return json.dumps({"resources": checksums(GOOD), "folders": folders, **more})


def results(process):
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return [json.loads(line) for line in out.splitlines()]


def test_killed_while_downloading(folder, serve, tmp_path, monkeypatch):
    process = python(DRIVER, driver((folder, tmp_path)), LABKIT_MIRROR=serve(GOOD, "half").url)
    part = f"{data.SCRATCH}*/MNIST/raw/{FILES[0]}"
    end = time.monotonic() + 30
    while not any(p.stat().st_size for p in folder.glob(part)):
        assert time.monotonic() < end and process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -9
    process.communicate()
    (left,) = names(folder)
    assert left.startswith(data.SCRATCH)
    monkeypatch.setenv("LABKIT_MIRROR", serve(GOOD).url)
    assert is_right(data.load())
    assert names(folder) == [left, "mnist.npz"]  # it might belong to a live process
    os.utime(folder / left, (time.time() - 4000,) * 2)
    (folder / "mnist.npz").unlink()
    assert is_right(data.load()) and names(folder) == ["mnist.npz"]


def test_killed_while_storing(tmp_path, capsys):
    """Readers see whole copies at every moment, also when the writer is killed at any moment."""
    arrays = tmp_path / "arrays.npz"
    np.savez(arrays, *ARRAYS)
    code = """if True:
        import sys, pathlib, numpy as np
        from labkit import data
        arrays = tuple(np.load(sys.argv[1]).values())
        while True:
            data._store(arrays, "mnist", pathlib.Path(sys.argv[2]))"""
    for round in range(3):
        folder = tmp_path / str(round)
        folder.mkdir()
        process, reads = python(code, str(arrays), str(folder)), 0
        end = time.monotonic() + 30
        while reads < 200 and time.monotonic() < end:
            got = data._stored("mnist", folder)
            assert capsys.readouterr().out == ""  # never damaged: not there yet, or whole
            if got is not None:
                reads += 1
                assert all(map(np.array_equal, got, ARRAYS))
        process.kill()
        process.communicate()
        assert reads == 200 and all(map(np.array_equal, data._stored("mnist", folder), ARRAYS))


def test_two_processes_at_once(folder, serve, tmp_path):
    server = serve(GOOD, "meet")  # holds each back until both have come
    both = [
        python(DRIVER, driver((folder, tmp_path), start=server.url + "/start"),
               LABKIT_MIRROR=server.url)
        for _ in range(2)
    ]  # fmt: skip
    assert [results(process)[0][0] for process in both] == [RIGHT, RIGHT]
    assert server.seen.count(FILES[-1]) == 4  # both did download (each asks twice)
    assert names(folder) == ["mnist.npz"]
    assert all(map(np.array_equal, data._stored("mnist", folder), ARRAYS))


def test_read_only_folder_and_full_disk(folder, serve, tmp_path):
    """Real ones: small tmpfs mounts in a namespace of the child process."""
    read_only, full = tmp_path / "read only", tmp_path / "full"
    read_only.mkdir()
    full.mkdir()
    script = ('mount -t tmpfs -o size=64k full "$1" && mount -t tmpfs -o ro none "$2" && shift 2 '
              '&& exec "$@"')  # fmt: skip
    wrapper = ["unshare", "-m" if os.getuid() == 0 else "-rm", "sh", "-c", script, "sh",
               str(full), str(read_only)]  # fmt: skip
    if not shutil.which("unshare") or subprocess.run([*wrapper, "true"]).returncode:
        pytest.skip("this machine does not let a test mount file systems")
    temporary = folder.parent / "tmp"
    cases = [(read_only, temporary), (full, temporary), (full, full), (full / "a/b", temporary)]
    process = python(
        DRIVER, driver(*cases), wrapper=wrapper, LABKIT_MIRROR=serve(GOOD).url,
        LABKIT_DATASET="mnist",
    )  # fmt: skip
    on_read_only, on_full, all_full, below = results(process)  # `below` does not exist yet
    assert on_read_only[0] == on_full[0] == below[0] == RIGHT
    for (_, out), why in ((on_read_only, "Read-only file system"), (on_full, "No space left")):
        assert out.count("\n") == 2 and why in out and "fetched again next time" in out
        assert "LABKIT_DATA" in out and str(tmp_path) not in out
    assert "No space left on device" in all_full[0] and "LABKIT_MIRROR" in all_full[0]


def test_loading_again_is_fast_and_light(tmp_path):
    """As large as MNIST. Best of three: on a virtual machine the first may wait for new memory."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (70_000, 28, 28), dtype=np.uint8)
    labels = np.arange(70_000, dtype=np.uint8) % 10
    parts = (images[:60_000], labels[:60_000], images[60_000:], labels[60_000:])
    data._store(parts, "mnist", tmp_path)
    code = """if True:
        import sys, time
        from labkit import data
        times = []
        for _ in range(3):
            start = time.perf_counter()
            dataset = data.load("mnist")
            times.append(time.perf_counter() - start)
        loaded = {"torch", "torchvision", "jax", "sklearn", "PIL"} & set(sys.modules)
        print(min(times), dataset.train_images.shape[0], *loaded)"""
    out, err = python(code, LABKIT_DATA=str(tmp_path), LABKIT_DATASET="mnist").communicate()
    seconds, count, *loaded = out.split()
    assert float(seconds) < 0.3 and count == "60000" and loaded == [], (out, err)


def test_torchvision_that_does_not_import(tmp_path):
    """As with a torch for CPUs beside a torchvision for CUDA."""
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator nms does not exist')")
    code = "from labkit import data; print(data.load().name)"
    process = python(
        code, LABKIT_DATA=str(tmp_path / "d"), LABKIT_DATASET="", PYTHONPATH=f"{tmp_path}:{ROOT}"
    )
    out, err = process.communicate()
    assert "torchvision does not import: operator nms does not exist" in out, err
    assert "NOT MNIST" in out and out.endswith("digits\n")


# ---------------------------------------------------------------------- arguments


@pytest.mark.parametrize("name", ["MNIST", "cifar", "", None, [3]])
def test_unknown_name(name, clean):
    with pytest.raises(ValueError, match="'mnist', 'fashion_mnist', 'kmnist', 'digits'"):
        data.load(name)


@pytest.mark.parametrize("digits", [[], [10], [-1], [3, 3], [1.0], ["3"], "3", 3, [None]])
def test_bad_digits(digits, clean):
    with pytest.raises(ValueError, match="digits must be"):
        data.load("digits", digits=digits)


@pytest.mark.parametrize("variable, value", [
    ("LABKIT_DATASET", "fashion"), ("LABKIT_MIRROR", "ftp://x/"), ("LABKIT_MIRROR", "/srv/mnist"),
    ("LABKIT_DATA", __file__),
])  # fmt: skip
def test_bad_variables(variable, value, clean, monkeypatch):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=variable):
        data.load("digits")


def test_asking_for_the_digits(clean, monkeypatch, capsys):
    monkeypatch.setenv("LABKIT_DATASET", "digits")
    assert data.load("mnist").name == "digits"
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and "LABKIT_DATASET=digits" in out and not clean.exists()


@pytest.mark.parametrize("digits", [[3], [7, 5], np.array([0, 9])])
def test_picking_classes(digits, clean):
    every, some = data.load("digits"), data.load("digits", digits=digits)
    for images, labels, kept_images, kept_labels in (
        (*every[:2], *some[:2]), (*every[2:4], *some[2:4]),
    ):  # fmt: skip
        rows = [i for i, label in enumerate(labels) if label in list(digits)]
        assert np.array_equal(kept_images, images[rows])
        assert np.array_equal(kept_labels, labels[rows]) and set(kept_labels) == set(digits)


# ---------------------------------------------------------------------- the data themselves


def test_embedded_digits(clean):
    from sklearn.datasets import load_digits

    dataset = data.load("digits")
    assert dataset.train_images.shape == (1500, 28, 28) and dataset.test_labels.shape == (297,)
    assert {a.dtype for a in dataset[:4]} == {np.dtype("float32"), np.dtype("int32")}
    images = np.concatenate([dataset.train_images, dataset.test_images])
    labels = np.concatenate([dataset.train_labels, dataset.test_labels])
    assert images.min() == 0 and images.max() == 1
    assert abs(images.mean() - 0.158) < 0.001 and abs(images.std() - 0.294) < 0.001
    frame = images.copy()
    frame[:, 4:24, 4:24] = 0
    assert not frame.any()
    # each of scikit-learn's digits is there once, upright and with its own label
    originals, truth = load_digits(return_X_y=True)
    coarse = images[:, 4:24, 4:24].reshape(-1, 10, 2, 10, 2).mean((2, 4))
    large = np.kron(originals.reshape(-1, 8, 8), np.ones((5, 5))).reshape(-1, 10, 4, 10, 4)
    large = large.mean((2, 4)).reshape(-1, 100) / 16
    coarse = coarse.reshape(-1, 100)
    distances = (coarse**2).sum(1)[:, None] - 2 * coarse @ large.T + (large**2).sum(1)
    nearest = distances.argmin(1)
    assert sorted(nearest) == list(range(1797)) and np.array_equal(labels, truth[nearest])
    assert nearest[:5].tolist() == np.random.RandomState(0).permutation(1797)[:5].tolist()
    assert sum(dataset.counts["training"].values()) == 1500 and len(dataset.counts["test"]) == 10


def test_official_mnist(clean, monkeypatch):
    if not (OFFICIAL / FILES[0]).exists() and not os.environ.get("TEST_MNIST_MIRROR"):
        pytest.skip("MNIST's four files are not at hand")
    monkeypatch.setenv("LABKIT_MIRROR", os.environ.get("TEST_MNIST_MIRROR") or OFFICIAL.as_uri())
    monkeypatch.setenv("LABKIT_DATASET", "mnist")
    train_images, train_labels, test_images, test_labels, name, _ = dataset = data.load()
    assert name == "mnist" and train_images.shape == (60000, 28, 28) and test_labels.size == 10000
    zero_to_nine = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert dataset.counts["training"] == dict(enumerate(zero_to_nine))
    zero_to_nine = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert dataset.counts["test"] == dict(enumerate(zero_to_nine))
    assert abs(train_images.mean(dtype=float) - 0.1307) < 5e-5
    assert abs(train_images.std(dtype=float) - 0.3081) < 5e-5
    assert train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert test_labels[:5].tolist() == [7, 2, 1, 0, 4]
    again = data.load(digits=[5, 7])
    assert np.array_equal(again.test_images, test_images[np.isin(test_labels, [5, 7])])


def test_printing(folder, serve, tmp_path, monkeypatch, capsys):
    from IPython.lib.pretty import pretty

    monkeypatch.setenv("LABKIT_MIRROR", serve(GOOD).url)
    fresh, stored = data.load(), data.load()
    text = repr(fresh)
    assert text == repr(stored) == pretty(fresh) == str(fresh) and len(text.splitlines()) == 5
    assert data.SOURCES["mnist"] in text and "200 images" in text and "28×28" in text
    assert str(tmp_path) not in text and "127.0.0.1" not in text
    only = [line.split() for line in repr(data.load(digits=[3, 8])).splitlines()]
    assert only[1] == ["class", "3", "8"] and only[2][:3] == ["training", "20", "20"]


# ---------------------------------------------------------------------- batches


def test_one_hot_and_flatten():
    rows = data.one_hot(np.array([2, 0]), classes=3)
    assert rows.dtype == np.float32 and rows.tolist() == [[0, 0, 1], [1, 0, 0]]
    assert data.one_hot([9]).shape == (1, 10) and data.one_hot(np.array([], int)).shape == (0, 10)
    for wrong in ([10], [-1]):
        with pytest.raises(ValueError, match="0 … 9"):
            data.one_hot(wrong)
    images = np.arange(2 * 784).reshape(2, 28, 28)
    assert data.flatten(images).shape == (2, 784) and data.flatten(images)[1, 30] == 784 + 30


def test_batches():
    images, labels = np.arange(10) * 10, np.arange(10)
    got = list(data.batches((images, labels), 3, seed=0))
    assert [len(y) for _, y in got] == [3, 3, 3]
    assert all(np.array_equal(x, 10 * y) for x, y in got)
    order = np.concatenate([y for _, y in got])
    assert len(set(order)) == 9 and order.tolist() != sorted(order)
    same = np.concatenate([y for _, y in data.batches((images, labels), 3, seed=0)])
    other = np.concatenate([y for _, y in data.batches((images, labels), 3, seed=1)])
    assert order.tolist() == same.tolist() != other.tolist()
    assert [len(y) for (y,) in data.batches([labels], 10, seed=0)] == [10]
    for arrays, size in (((images, labels[:9]), 3), ((images,), 0), ((images,), 11)):
        with pytest.raises(ValueError, match="no batches"):
            next(data.batches(arrays, size, seed=0))


def test_which_data_is_said_once_in_a_session(clean, monkeypatch, capsys):
    monkeypatch.setenv("LABKIT_DATASET", "digits")
    assert data.load("mnist").name == "digits" and data.in_use() == "digits"
    assert "LABKIT_DATASET=digits" in capsys.readouterr().out
    data.load("mnist")
    assert capsys.readouterr().out == ""
