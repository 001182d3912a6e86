"""labkit.data and labkit.download against real servers, killed processes and full disks.

The tests make small IDX files and say that they are the official ones; nothing leaves the machine.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from labkit import check, data, download, files
from tests.server import ARRAYS, FILES, GOOD, Server, Silent, make, official
from tools import ROOT

OTHER = make(2)[1]  # well-formed, but not the official files
MNIST = ROOT.parent / "shared" / "mnist"


def expected(arrays):
    return [a.astype(np.float32) / np.float32(255) if a.ndim == 3 else a.astype(np.int32)
            for a in arrays]  # fmt: skip


def is_right(dataset):
    for got, want in zip(dataset[:4], expected(ARRAYS), strict=True):
        assert got.dtype == want.dtype and np.array_equal(got, want)
    return True


def restart():
    """As in a new process: nothing is loaded, nothing has been said."""
    data._whole.cache_clear()
    files._said.clear()
    data._course = "mnist"


@pytest.fixture(autouse=True)
def a_new_process():
    restart()
    yield
    restart()


@pytest.fixture
def serve():
    servers = []

    def start(served=GOOD, how="well"):
        servers.append(Silent() if how == "silent" else Server(served, how))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def clean(tmp_path, monkeypatch):
    """An empty LABKIT_DATA, no other LABKIT_ variable, no proxy."""
    for name in ("LABKIT_MIRROR", "LABKIT_DATASET", "http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def folder(clean, monkeypatch):
    """`clean`, and the small files are the official ones; no public mirror has them."""
    for name in ("mnist", "fashion_mnist", "kmnist"):
        monkeypatch.setitem(download.DATASETS, name, official(GOOD))
    monkeypatch.setattr(download, "TIMEOUT", 1)
    monkeypatch.setattr(download, "STALL", 1.5)
    return clean


def put(place, served=GOOD):
    place.mkdir(parents=True, exist_ok=True)
    for file, body in served.items():
        (place / file).write_bytes(body)
    return place


def names(folder):
    found = folder.rglob("*") if folder.exists() else []
    return sorted(str(p.relative_to(folder)) for p in found if p.is_file())


KEPT = sorted(f"labkit-mnist/{file}" for file in FILES)


# ---------------------------------------------------------------------- downloads


def test_each_file_is_asked_for_once_and_kept(folder, serve, monkeypatch, capsys):
    server, second = serve(), serve()
    monkeypatch.setitem(download.DATASETS, "mnist", official(GOOD, [second.url]))
    monkeypatch.setenv("LABKIT_MIRROR", server.url + "/")
    server.files = {f"mnist/{file}": body for file, body in GOOD.items()}
    assert is_right(data.load()) and data.load().name == "mnist"
    assert capsys.readouterr() == ("labkit: downloading mnist …\n", "")  # nothing else
    assert server.seen == [f"mnist/{file}" for file in FILES] and not second.seen
    assert names(folder) == KEPT and socket.getdefaulttimeout() is None
    assert data.load() is data.load("mnist"), "decoded once a process"
    restart()
    assert is_right(data.load()) and len(server.seen) == 4 and capsys.readouterr() == ("", "")
    for array in data.load()[:4]:
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


WRONG = {
    "absent": "No such file or directory", "wrong": "wrong checksum", "short": r"bytes instead of",
    "silent": "timed out", "drip": "timed out", "drip headers": "timed out", "refused": "refused",
    "circle": "redirects in a circle", "portal": "log in to this network",
    "endless": "bytes instead of",
}  # fmt: skip


@pytest.mark.parametrize("how", WRONG)
def test_bad_mirror(how, folder, serve, monkeypatch, capsys):
    server = serve({"absent": {}, "wrong": OTHER}.get(how, GOOD), how)
    if how == "refused":
        server.close()
        monkeypatch.setattr(server, "close", lambda: None)
    monkeypatch.setenv("LABKIT_MIRROR", server.url)
    monkeypatch.setenv("LABKIT_DATASET", "mnist")
    with pytest.raises(data.DataUnavailable, match=f"- LABKIT_MIRROR: .*{WRONG[how]}") as caught:
        data.load()
    text, out = str(caught.value), capsys.readouterr().out
    assert str(folder) not in text + out and "127.0.0.1" not in text + out
    assert names(folder) == []  # nothing half-written, under any name
    if how == "silent":
        assert len(server.seen) == 1  # one request, not one for each place and file
    if how == "endless":
        assert server.sent < 10_000_000  # what the sockets hold, and no more is read
    seen = len(server.seen)
    with pytest.raises(data.DataUnavailable, match=WRONG[how]):
        data.load()
    assert len(server.seen) == seen and capsys.readouterr().out == "", "not tried again"

    restart()
    monkeypatch.setitem(download.DATASETS, "mnist", official(GOOD, [serve().url]))
    assert is_right(data.load()) and names(folder) == KEPT
    out = capsys.readouterr().out
    assert re.search(f"came from elsewhere.*\n- LABKIT_MIRROR: .*{WRONG[how]}", out)


def test_a_name_server_that_never_answers(folder, monkeypatch):
    over, timeouts = threading.Event(), []
    monkeypatch.setattr(download, "STALL", 0.5)

    def hang(*args, **kwargs):
        timeouts.append(socket.getdefaulttimeout())
        over.wait(60)
        raise OSError

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    monkeypatch.setenv("LABKIT_MIRROR", "http://nowhere.invalid")
    monkeypatch.setenv("LABKIT_DATASET", "mnist")
    with pytest.raises(data.DataUnavailable, match="LABKIT_MIRROR: timed out"):
        data.load()
    over.set()
    assert timeouts == [None]


def test_the_second_mirror_gives_what_the_first_has_not(folder, serve, monkeypatch):
    first, second = serve({file: GOOD[file] for file in FILES[:2]}), serve()
    monkeypatch.setitem(download.DATASETS, "mnist", official(GOOD, [first.url, second.url]))
    assert is_right(data.load())
    assert first.seen == list(FILES[:3]) and second.seen == list(FILES[2:])


def test_threads_share_one_download(folder, serve, monkeypatch):
    server, stdout = serve(), sys.stdout
    monkeypatch.setenv("LABKIT_MIRROR", server.url)
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda _: data.load(), range(4)))
    assert all(one is got[0] for one in got) and is_right(got[0]) and sys.stdout is stdout
    assert [server.seen.count(file) for file in FILES] == [1] * 4


def test_fallback_is_loud_once(folder, serve, monkeypatch, capsys):
    server = serve({})
    monkeypatch.setenv("LABKIT_MIRROR", server.url)
    dataset = data.load(digits=[3])
    out = capsys.readouterr().out
    assert dataset.name == data.course_dataset() == "digits" and set(dataset.train_labels) == {3}
    assert "NOT MNIST" in out and "1,797" in out and "No such file or directory" in out
    assert all(way in out for way in ("internet", "LABKIT_MIRROR", "LABKIT_DATA"))
    assert str(folder.parent) not in out and names(folder) == []
    box = out.splitlines()[1:]
    assert len(box) < 14 and len({len(line) for line in box}) == 1 and len(box[0]) < 90
    seen = len(server.seen)
    assert data.load().name == "digits" and len(server.seen) == seen
    assert capsys.readouterr().out == "", "a cell with compared output stays as it is"


def test_other_datasets(folder, serve, monkeypatch, capsys):
    monkeypatch.setenv("LABKIT_DATASET", "digits")  # concerns MNIST only
    assert data.stored("kmnist") is None and capsys.readouterr().out == ""
    with pytest.raises(data.DataUnavailable, match="kmnist"):
        data.load("kmnist")
    server = serve({f"kmnist/{file}": body for file, body in GOOD.items()})
    monkeypatch.setenv("LABKIT_MIRROR", server.url + "/")
    dataset = data.load("kmnist")
    assert is_right(dataset) and dataset.name == "kmnist" and data.course_dataset() == "mnist"
    capsys.readouterr()
    assert is_right(data.stored("kmnist")) and capsys.readouterr().out == ""
    (folder / "labkit-kmnist" / FILES[0]).write_bytes(b"")
    assert data.stored("kmnist") is None and capsys.readouterr().out == ""


def test_the_bare_files_of_a_mirror_are_mnist(folder, tmp_path, serve, monkeypatch, capsys):
    for mirror in (put(tmp_path / "a b").as_uri(), serve().url):
        monkeypatch.setenv("LABKIT_MIRROR", mirror)
        with pytest.raises(data.DataUnavailable, match="LABKIT_MIRROR: No such file or directory"):
            data.load("fashion_mnist")
        assert "not from" not in capsys.readouterr().out
        assert is_right(data.load())
        shutil.rmtree(folder)


def test_a_data_folder_may_be_served_to_others(folder, serve, monkeypatch):
    monkeypatch.setenv("LABKIT_MIRROR", serve().url)
    data.load()
    monkeypatch.setenv("LABKIT_MIRROR", folder.as_uri())
    monkeypatch.setenv("LABKIT_DATA", str(folder.parent / "student"))
    assert is_right(data.load()) and names(folder.parent / "student") == KEPT
    download.copy("mnist", folder.parent / "torchvision" / "MNIST" / "raw")
    monkeypatch.setenv("LABKIT_DATA", str(folder.parent / "torchvision"))
    assert is_right(data.stored("mnist"))


@pytest.mark.parametrize("place", [".", "mnist", "MNIST/raw"])
def test_four_files_in_the_folder(place, folder, serve, monkeypatch, capsys):
    put(folder / place)
    assert is_right(data.load()) and capsys.readouterr().out == ""
    assert len(names(folder)) == 4, "not copied"
    restart()
    (folder / place / FILES[2]).write_bytes(GOOD[FILES[2]][:-1])
    monkeypatch.setenv("LABKIT_MIRROR", serve().url)
    assert is_right(data.load())
    out = capsys.readouterr().out
    assert f"not from LABKIT_DATA: {FILES[2]} is not the official file" in out
    assert (folder / place / FILES[2]).read_bytes() == GOOD[FILES[2]][:-1], "not ours to change"
    assert len(names(folder)) == 5


def test_what_is_no_file_is_passed_by(folder, serve, monkeypatch):
    (folder / "mnist").mkdir(parents=True)
    os.mkfifo(folder / "mnist" / FILES[0])
    (folder / "mnist" / FILES[1]).symlink_to("/dev/zero")
    (folder / "mnist" / FILES[2]).mkdir()
    (folder / "mnist" / FILES[3]).symlink_to("nowhere")
    monkeypatch.setenv("LABKIT_MIRROR", serve().url)
    assert is_right(data.load())


# ---------------------------------------------------------------------- passwords and proxies


def test_user_and_password_are_used_and_never_printed(folder, serve, monkeypatch, capsys):
    server = serve({f"mnist/{file}": body for file, body in GOOD.items()}, "class:hunter 2@")
    mirror = server.url.replace("//", "//class:{}@")
    monkeypatch.setenv("LABKIT_MIRROR", mirror.format("hunter%202%40"))
    assert is_right(data.load()) and len(server.seen) == 4
    shutil.rmtree(folder)
    monkeypatch.setenv("LABKIT_MIRROR", mirror.format("hunter3"))
    assert data.load().name == "digits"
    out = capsys.readouterr().out
    assert "HTTP error 401, Unauthorized" in out and "hunter" not in out


@pytest.mark.parametrize("mirror", [
    "ftp://x/", "/srv/mnist", "http://", "file://host/x", "file://", "http://x/a b",
    "http://class:hunter2@host?token=1", "http://x/mnist?token=hunter2", "http://x/#hunter2",
])  # fmt: skip
def test_a_mirror_that_cannot_be_one_is_refused(mirror, clean, monkeypatch):
    monkeypatch.setenv("LABKIT_MIRROR", mirror)
    with pytest.raises(ValueError, match="LABKIT_MIRROR must be the address of a folder") as caught:
        data.load("digits")
    assert "hunter2" not in str(caught.value)


def test_a_mirror_is_asked_without_the_proxy_and_then_with_it(folder, serve, monkeypatch, capsys):
    server, proxy = serve(), serve({})
    with_password = proxy.url.replace("//", "//user:secret@")
    monkeypatch.setenv("http_proxy", with_password)
    monkeypatch.setenv("LABKIT_MIRROR", server.url)
    assert is_right(data.load()) and not proxy.seen, "a laptop in the same room"
    shutil.rmtree(folder)
    monkeypatch.setenv("LABKIT_MIRROR", "http://far.invalid")
    proxy.files = {f"http://far.invalid/{file}": body for file, body in GOOD.items()}
    assert is_right(data.load()) and proxy.seen[0].startswith("http://far.invalid/")
    shutil.rmtree(folder)
    proxy.files = {}
    monkeypatch.setitem(download.DATASETS, "mnist", official(GOOD, ["http://public.invalid/mnist"]))
    monkeypatch.setenv("no_proxy", "elsewhere")
    monkeypatch.setenv("LABKIT_MIRROR", "http://other.invalid")
    monkeypatch.setenv("LABKIT_DATASET", "mnist")
    with pytest.raises(data.DataUnavailable) as caught:
        data.load()
    text, named = str(caught.value), f"through the proxy 127.0.0.1:{proxy.server_port}: "
    assert "secret" not in text + capsys.readouterr().out
    assert f"- LABKIT_MIRROR {named}" in text and f"- public.invalid {named}" in text


# ---------------------------------------------------------------------- the stored copy


DAMAGE = {
    "one bit": lambda body: body[:99] + bytes([body[99] ^ 1]) + body[100:],
    "hole": lambda body: body[:99] + bytes(len(body) - 99),  # of a file that was never synced
    "half": lambda body: body[: len(body) // 2],
    "longer": lambda body: body + b"0",
    "empty": lambda body: b"",
    "another": lambda body: OTHER[FILES[0]],
}


@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_copy(how, folder, serve, monkeypatch, capsys):
    server = serve()
    monkeypatch.setenv("LABKIT_MIRROR", server.url)
    data.load()
    capsys.readouterr()
    restart()
    (folder / "labkit-mnist" / FILES[0]).write_bytes(DAMAGE[how](GOOD[FILES[0]]))
    server.seen.clear()
    assert is_right(data.load()) and names(folder) == KEPT
    assert server.seen[-1:] == [FILES[0]], "the three others are sound"
    out = capsys.readouterr().out
    assert f"not from LABKIT_DATA: {FILES[0]} is not the official file" in out
    restart()
    assert is_right(data.load()) and capsys.readouterr().out == ""


def test_other_programs_files_survive(folder, serve, monkeypatch, capsys):
    """Keras keeps MNIST as mnist.npz too."""
    folder.mkdir()
    np.savez(folder / "mnist.npz", x_train=np.zeros((3, 28, 28), np.uint8))
    keras = (folder / "mnist.npz").read_bytes()
    monkeypatch.setenv("LABKIT_MIRROR", serve().url)
    assert is_right(data.load()) and (folder / "mnist.npz").read_bytes() == keras
    assert "not from" not in capsys.readouterr().out


DRIVER = """
import contextlib, hashlib, io, json, os, sys
from labkit import data, download, files
arguments = json.loads(sys.argv[1])
download.DATASETS["mnist"] = arguments["mnist"]
for folder in arguments["folders"]:
    os.environ["LABKIT_DATA"] = folder
    files._said.clear()
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


def driver(*folders):
    return json.dumps({"mnist": official(GOOD), "folders": [str(folder) for folder in folders]})


def results(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return [json.loads(line) for line in out.splitlines()]


def test_killed_while_downloading(folder, serve, monkeypatch):
    slow, end = serve(GOOD, "half"), time.monotonic() + 60
    process = python(DRIVER, driver(folder), LABKIT_MIRROR=slow.url)
    while FILES[0] not in slow.seen:
        assert time.monotonic() < end and process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert process.returncode == -9 and names(folder) == []
    monkeypatch.setenv("LABKIT_MIRROR", serve().url)
    assert is_right(data.load()) and names(folder) == KEPT


def test_killed_while_writing(tmp_path):
    """Readers see a whole file at every moment, also if its writer is killed at any moment."""
    path, body = tmp_path / "file", os.urandom(300_000)
    code = """if True:
        import sys, pathlib
        from labkit import files
        path = pathlib.Path(sys.argv[1])
        body = path.read_bytes()
        while True:
            with files.whole(path) as file:
                file.write(body)"""
    path.write_bytes(body)
    for _ in range(2):
        process, replaced, end = python(code, str(path)), set(), time.monotonic() + 60
        while len(replaced) < 9 and time.monotonic() < end:
            replaced.add(path.stat().st_ino)
            assert path.read_bytes() == body
        process.kill()
        process.communicate()
        assert path.read_bytes() == body and len(replaced) == 9
    left = [p for p in tmp_path.iterdir() if p != path]
    for old in [*left, tmp_path / ".file-0.tmp"]:
        old.touch()
        os.utime(old, (time.time() - 4000,) * 2)
    with files.whole(path) as file:
        file.write(body)
    assert names(tmp_path) == ["file"], "what was left behind is swept an hour later"


def test_two_processes_at_once(folder, serve):
    served = {f"mnist/{file}": body for file, body in GOOD.items()}
    server = serve(served, "meet")  # holds each back until both have come
    both = [python(DRIVER, driver(folder), LABKIT_MIRROR=server.url) for _ in range(2)]
    assert [results(process)[0][0] for process in both] == [RIGHT, RIGHT]
    assert [server.seen.count(file) for file in served] == [2] * 4 and names(folder) == KEPT


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
    cases = [read_only, full, full / "a/b"]
    process = python(DRIVER, driver(*cases), wrapper=wrapper, LABKIT_MIRROR=serve().url,
                     TMPDIR=str(full))  # fmt: skip
    for (got, out), why in zip(results(process), ("Read-only file system", *["No space left"] * 2)):
        assert got == RIGHT and out.count("cannot be kept") == 1 and why in out
        assert "LABKIT_DATA names the folder" in out and str(tmp_path) not in out


def test_a_user_without_a_home(serve):
    """Nor an entry in the password file, as in some containers: all goes on, nothing is kept."""
    code = """if True:
        import os
        from labkit import data, files
        os.environ["LABKIT_DATASET"] = "digits"
        print(data.load("mnist").name)
        os.environ["LABKIT_DATASET"] = ""
        print(data.load("mnist").name)
        with files.optional("this", "LABKIT_CACHE"), files.whole(files.cache() / "x"):
            pass
        os.environ["LABKIT_DATA"] = "~/data"
        print(data.load("mnist").name, os.path.exists("~"))"""
    stranger = ["unshare", "--user", "--map-user=65123", "env"]
    for name in ("HOME", "XDG_CACHE_HOME", "LABKIT_DATA", "LABKIT_CACHE", "LABKIT_DATASET"):
        stranger += ["-u", name]
    if not shutil.which("unshare") or subprocess.run([*stranger, "true"]).returncode:
        pytest.skip("this machine does not let a test be another user")
    out, err = python(code, wrapper=stranger, LABKIT_MIRROR=serve({}).url).communicate()
    assert "this cannot be kept (Not a directory); LABKIT_CACHE" in out, err
    assert out.splitlines()[0].startswith("labkit: LABKIT_DATASET=digits")
    assert out.splitlines()[-1] == "digits False"


# ---------------------------------------------------------------------- MNIST itself


@pytest.fixture(scope="module")
def real():
    mirror = os.environ.get("TEST_MNIST_MIRROR") or MNIST.as_uri()
    if not (MNIST / FILES[0]).exists() and "TEST_MNIST_MIRROR" not in os.environ:
        pytest.skip("MNIST's four files are not at hand")
    return mirror


def test_official_mnist(clean, real, monkeypatch):
    monkeypatch.setenv("LABKIT_MIRROR", real)
    monkeypatch.setenv("LABKIT_DATASET", "mnist")
    train_images, train_labels, test_images, test_labels, name, _ = data.load()
    assert name == "mnist" and train_images.shape == (60000, 28, 28) and test_labels.size == 10000
    zero_to_nine = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(train_labels).tolist() == zero_to_nine
    zero_to_nine = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert np.bincount(test_labels).tolist() == zero_to_nine
    assert abs(train_images.mean(dtype=float) - 0.1307) < 5e-5
    assert abs(train_images.std(dtype=float) - 0.3081) < 5e-5
    assert train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert test_labels[:5].tolist() == [7, 2, 1, 0, 4]
    again = data.load(digits=[5, 7])
    assert np.array_equal(again.test_images, test_images[np.isin(test_labels, [5, 7])])


LOAD = """
from labkit import data
assert data.load("mnist") is data.load("mnist")
data.load("mnist", digits=[3])
assert not {"torch", "torchvision", "jax", "sklearn", "PIL", "matplotlib"} & set(sys.modules)
assert time.process_time() < 6, "1.0 measured, imports included"
"""
NOTEBOOK = """
import jax, jax.numpy as jnp
from labkit import data, fit, session
from labkit.compare import judge, questions
session.start("01_predictive_coding")
digits = data.load("mnist")
mean, std = digits.train_images.mean(), digits.train_images.std()
train = (data.flatten(digits.train_images) - mean) / std, data.one_hot(digits.train_labels)
step = lambda weights, batch, key: (weights - 1e-3 * batch[0].T @ batch[1], {})
fit.fit(step, jnp.zeros((784, 10)), train, key=jax.random.key(0), batch_size=128, epochs=1)
asked = questions.questions()
judge.load().score(asked.images, asked.labels)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux's account")
@pytest.mark.parametrize("code, most", [(LOAD, 420), (NOTEBOOK, 1300)])
def test_loading_mnist_is_light(code, most, clean, real):
    """Peak memory in MiB: the images take 210; of Binder's 2 GiB, plots and compiling need 500."""
    code = f"import sys, time\n{code}\nprint(open('/proc/self/status').read())"
    out, err = python(code, LABKIT_MIRROR=real, LABKIT_DATASET="mnist").communicate()
    assert int(re.search(r"VmHWM:\s+(\d+)", out + err)[1]) / 1024 < most


# ---------------------------------------------------------------------- arguments


BAD = [
    *((name, None, "there are mnist, fashion_mnist, kmnist, digits")
      for name in ("MNIST", "cifar", "", None, [3])),
    *(("digits", digits, "digits must be")
      for digits in ([], [10], [-1], [3, 3], [1.0], ["3"], "3", 3, [None])),
]  # fmt: skip


@pytest.mark.parametrize("name, digits, words", BAD)
def test_bad_arguments(name, digits, words, clean):
    with pytest.raises(ValueError, match=words):
        data.load(name, digits=digits)


@pytest.mark.parametrize(
    "variable, value", [("LABKIT_DATASET", "fashion"), ("LABKIT_DATA", __file__)]
)
def test_bad_variables(variable, value, clean, monkeypatch):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=variable):
        data.load("digits")


def test_asking_for_the_digits(clean, monkeypatch, capsys):
    monkeypatch.setenv("LABKIT_DATASET", "digits")
    assert data.load("mnist").name == data.course_dataset() == "digits"
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and "LABKIT_DATASET=digits" in out and not clean.exists()
    data.load("mnist")
    assert capsys.readouterr().out == ""


def test_only_the_courses_dataset_changes_the_ranges(folder, serve, monkeypatch, capsys):
    """A look at another dataset once made every later check fail, with the wrong advice."""
    monkeypatch.setenv("LABKIT_MIRROR", serve().url)
    mean = 0.1307
    data.load("mnist")
    check.result("data/mean", mean)
    for other in ("digits", "fashion_mnist"):
        with contextlib.suppress(data.DataUnavailable):
            data.load(other)
        check.result("data/mean", mean)
    assert capsys.readouterr().out.count("on mnist") == 3 and data.course_dataset() == "mnist"


@pytest.mark.parametrize("digits", [[3], [7, 5], np.array([0, 9])])
def test_picking_classes(digits, clean):
    every, some = data.load("digits"), data.load("digits", digits=digits)
    for images, labels, kept_images, kept_labels in (
        (*every[:2], *some[:2]), (*every[2:4], *some[2:4]),
    ):  # fmt: skip
        rows = [i for i, label in enumerate(labels) if label in list(digits)]
        assert np.array_equal(kept_images, images[rows]) and not kept_images.flags.writeable
        assert np.array_equal(kept_labels, labels[rows]) and set(kept_labels) == set(digits)


# ---------------------------------------------------------------------- the data themselves


def test_small_digits(clean):
    from sklearn.datasets import load_digits

    dataset = data.load("digits")
    assert dataset.train_images.shape == (1500, 28, 28) and dataset.test_labels.shape == (297,)
    assert [a.dtype for a in dataset[:4]] == [np.float32, np.int32] * 2
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


def test_printing(folder, serve, tmp_path, monkeypatch):
    from IPython.lib.pretty import pretty

    monkeypatch.setenv("LABKIT_MIRROR", serve().url)
    dataset = data.load()
    text = repr(dataset)
    assert text == pretty(dataset) == str(dataset) and len(text.splitlines()) == 5
    assert "small IDX files" in text and "200 images" in text and "28×28" in text
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
