"""The page for lecturers who host the course: each of its commands, run as written.

A `sudo` that only runs its command, loopback servers and small IDX files stand in for a hub's
machine and the internet. What cannot be had here is not run: the hub itself and its reload.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import pytest
from traitlets.config import Config

from tests.labkit.test_data import ARRAYS, FILES, GOOD, Server, checksums
from tools import ROOT, colab, stamp

PAGE = ROOT / "pages" / "hosting.md"
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)
LOAD = """\
from labkit import data
for name in ("mnist", "fashion_mnist"):
    loaded = data.load(name)
    print(loaded.name, len(loaded.train_images), int(loaded.train_images.sum()))
"""
SUDO = '#!/bin/sh\nwhile [ "$1" = -E ]; do shift; done\nexec env "$@"\n'
needs_bash = pytest.mark.skipif(os.name == "nt", reason="the commands are for a Unix shell")


def block(words):
    """The one code block of the page with these words in it."""
    (found,) = [text for _, text in BLOCKS if words in text]
    return found


@pytest.fixture
def internet():
    server = Server(GOOD)
    yield server
    server.close()


@pytest.fixture
def machine(tmp_path, internet):
    """run(script, **variables): run a block in an empty folder of a machine like a hub's."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in {
        "sudo": SUDO,
        "python": f'#!/bin/sh\nexec "{sys.executable}" "$@"\n',
        "pip": f'#!/bin/sh\nexec "{sys.executable}" -m pip "$@"\n',
        "make": f'#!/bin/sh\ntest "$1" = lab && exec "{sys.executable}" -c \'{LOAD}\'\n',
    }.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "from torchvision.datasets import FashionMNIST, MNIST\n"
        f"MNIST.resources = FashionMNIST.resources = {checksums(GOOD)}\n"
        f"MNIST.mirrors = FashionMNIST.mirrors = ['{internet.url}/']\n"
    )
    folder = tmp_path / "folder"
    folder.mkdir()

    def run(script, *, wrapper=(), torchvision=True, **variables):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("LABKIT_")}
        environment["PATH"] = f"{tools}{os.pathsep}{environment['PATH']}"
        if torchvision:
            environment["PYTHONPATH"] = str(tmp_path / "site")
        done = subprocess.run([*wrapper, "bash", "-euc", script], cwd=folder, text=True,
                              capture_output=True, timeout=300,
                              env=environment | variables)  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run.folder = folder
    return run


def is_right(printed):
    want = int((ARRAYS[0] / 255).sum())
    lines = [
        line.split() for line in printed.splitlines() if "mnist" in line and "labkit" not in line
    ]
    assert [line[0] for line in lines] == ["mnist", "fashion_mnist"]
    assert all(line[1] == "200" and abs(int(line[2]) - want) <= 2 for line in lines), lines
    return True


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def answers(url):
    for _ in range(200):
        try:
            return urllib.request.urlopen(url, timeout=5).read().decode()
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"{url} does not answer")


@needs_bash
def test_the_classroom_mirror(machine, internet, tmp_path):
    machine(block("mkdir -p mirror/mnist"))
    for name in ("mnist", "fashion_mnist"):
        assert sorted(p.name for p in (machine.folder / "mirror" / name).iterdir()) == sorted(FILES)
    internet.close()  # a room without internet
    port = free_port()
    serve = block("http.server").replace("8000", port).split()
    assert serve[0] == "python" and "--directory" in serve
    mirror = subprocess.Popen(
        [sys.executable, *serve[1:]], cwd=machine.folder, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        answers(f"http://127.0.0.1:{port}/")
        lab = block("LABKIT_MIRROR=http").replace("192.168.0.10:8000", f"127.0.0.1:{port}")
        assert is_right(machine(lab, LABKIT_DATA=str(tmp_path / "student")))
    finally:
        mirror.terminate()
    log = mirror.communicate()[1]
    for name in ("mnist", "fashion_mnist"):
        assert all(f'"GET /{name}/{file} HTTP/1.1" 200' in log for file in FILES)
    assert is_right(machine(lab, LABKIT_DATA=str(tmp_path / "student"))), "kept for the next time"


@needs_bash
def test_the_shared_folder_is_filled_once_and_read_by_all(machine, internet, tmp_path):
    shared = tmp_path / "srv" / "labkit"
    fill = block("mkdir -p /srv/labkit").replace("/srv/labkit", str(shared))
    machine(fill.replace("/opt/tljh/user/bin/python", "python"))
    assert sorted(path.name for path in shared.iterdir()) == ["fashion_mnist.npz", "mnist.npz"]
    assert not any(path.stat().st_mode & 0o022 for path in [shared, *shared.iterdir()])
    assert all(path.stat().st_mode & 0o004 for path in shared.iterdir())
    asked = len(internet.seen)

    hub = {"c": Config()}
    exec(block("Spawner.environment"), hub)
    environment = dict(hub["c"].Spawner.environment)
    assert environment == {"LABKIT_DATA": "/srv/labkit"}
    read_only = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
    unshare = ["unshare", "-m" if os.getuid() == 0 else "-rm", "sh", "-c", read_only, str(shared)]
    can = shutil.which("unshare") and not subprocess.run([*unshare, "true"]).returncode
    if not can and os.getuid() == 0:
        pytest.skip("root can write everywhere, and this machine mounts nothing read-only")
    printed = machine("make lab", wrapper=unshare if can else (), LABKIT_DATA=str(shared))
    assert is_right(printed) and len(internet.seen) == asked
    assert "kept" not in printed and len(list(shared.iterdir())) == 2


@needs_bash
def test_the_hub_installs_labkit_from_the_address(machine, tmp_path):
    cpu, labkit = block("sudo -E pip").splitlines()
    index = re.search(r"CPU_TORCH := (\S+)", (ROOT / "Makefile").read_text("utf-8"))[1]
    assert cpu == f"sudo -E pip install torch torchvision --index-url {index}"
    pytest.importorskip("setuptools", "68", reason="building labkit needs it, or the internet")
    variables = colab.publish(tmp_path / "repository")
    variables |= {"PIP_TARGET": str(tmp_path / "hub"), "PIP_NO_DEPS": "1"}
    machine(labkit.rstrip() + " --no-build-isolation", torchvision=False, **variables)
    assert (tmp_path / "hub" / "labkit" / "times.toml").is_file()
    assert (tmp_path / "hub" / "labkit" / "check" / "core.py").is_file()


def link():
    """The nbgitpuller link of the page: its path on the hub, and its parameters."""
    parts = urllib.parse.urlsplit(block("git-pull").strip())
    assert parts.path == "/hub/user-redirect/git-pull"
    return dict(urllib.parse.parse_qsl(parts.query, strict_parsing=True)), parts.query


def test_the_link_for_the_class_names_what_there_is():
    parameters, _ = link()
    url, branch = stamp.address()
    name = url.rsplit("/", 1)[1]
    documented = {"repo", "branch", "urlpath", "depth", "targetpath", "subpath", "app"}
    assert set(parameters) <= documented
    assert (parameters["repo"], parameters["branch"]) == (url, branch)
    assert parameters["urlpath"].startswith(f"lab/tree/{name}/")
    assert (ROOT / parameters["urlpath"].removeprefix(f"lab/tree/{name}/")).is_file()


@needs_bash
def test_the_link_for_the_class_copies_the_course(tmp_path):
    """A real Jupyter server with nbgitpuller, which the `test` extra brings."""
    parameters, query = link()
    home, port = tmp_path / "home", free_port()
    home.mkdir()
    environment = os.environ | {"HOME": str(home), "JUPYTER_CONFIG_DIR": str(home / ".jupyter")}
    environment |= colab.publish(tmp_path / "repository", branch=parameters["branch"])
    command = [sys.executable, "-m", "jupyter", "server", "--no-browser", f"--port={port}"]
    command += ["--IdentityProvider.token=", "--allow-root", f"--ServerApp.root_dir={home}"]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=home, env=environment, stdout=log, stderr=log)
    try:
        address = f"http://127.0.0.1:{port}"
        answers(f"{address}/api")
        page = answers(f"{address}/git-pull?{query}")
        assert parameters["urlpath"] in page and parameters["repo"] in page
        events = answers(f"{address}/git-pull/api?{query}")
        assert '"phase": "finished"' in events, events
    finally:
        server.terminate()
        server.wait(30)
    course = home / parameters["urlpath"].removeprefix("lab/tree/")
    assert course.read_bytes() == (ROOT / "notebooks" / course.name).read_bytes()


def test_the_page_is_plain_markdown_stamped_with_the_address():
    text = PAGE.read_text("utf-8")
    assert stamp.stamp_places(text) == text, "run `make stamp`"
    assert set(re.findall(r"^```(.*)$", text, re.M)) == {"", "python"} and ":::" not in text
    for target in re.findall(r"\]\((?!https?://|#)([^)\s]+)\)", text):
        assert (PAGE.parent / target).exists(), target


def test_binder_finds_one_python_version_and_the_package():
    """repo2docker reads a version only from `python=3.x`; it takes 3.10 for anything else."""
    text = (ROOT / "environment.yml").read_text("utf-8")
    version = re.search(r"^  - python=(3\.\d+)\b", text, re.M)[1]
    assert tuple(map(int, version.split("."))) >= (3, 11)
    links = re.findall(r"mybinder\.org/v2/gh/\S+?\?urlpath=([^)\s]+)\)", PAGE.read_text("utf-8"))
    links += re.findall(
        r"mybinder\.org/v2/gh/\S+?\?urlpath=([^)\s]+)\)", (ROOT / "README.md").read_text("utf-8")
    )
    assert len(links) == 2
    for path in map(urllib.parse.unquote, links):
        assert (ROOT / path.removeprefix("lab/tree/")).is_file()
