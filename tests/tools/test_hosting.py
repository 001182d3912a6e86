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

from tests.server import ARRAYS, FILES, GOOD, Server, official
from tools import ROOT, colab, stamp, student
from tools.site import book

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
    known = official(GOOD, [internet.url])
    known = {"mnist": known, "fashion_mnist": known}
    patch = f"from labkit import download\ndownload.DATASETS |= {known}"
    (tmp_path / "site" / "sitecustomize.py").write_text(patch)
    folder = tmp_path / "folder"
    folder.mkdir()

    def run(script, *, wrapper=(), **variables):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("LABKIT_")}
        environment["PATH"] = f"{tools}{os.pathsep}{environment['PATH']}"
        environment["PYTHONPATH"] = f"{tmp_path / 'site'}{os.pathsep}{ROOT}"
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
    for _ in range(3000):  # other work may slow it down
        try:
            return urllib.request.urlopen(url, timeout=5).read().decode()
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"{url} does not answer")


@needs_bash
def test_the_classroom_mirror(machine, internet, tmp_path):
    machine(block("LABKIT_DATA=mirror"))
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
    assert log.count('HTTP/1.1" 200') == 2 * len(FILES) + 1, "each file once, and the page above"
    assert is_right(machine(lab, LABKIT_DATA=str(tmp_path / "student"))), "kept for the next time"


@needs_bash
def test_the_shared_folder_is_filled_once_and_read_by_all(machine, internet, tmp_path):
    shared = tmp_path / "srv" / "labkit"
    fill = block("mkdir -p /srv/labkit").replace("/srv/labkit", str(shared))
    machine(fill.replace("/opt/tljh/user/bin/python", "python"))
    stored = [shared, *shared.rglob("*")]
    assert sum(path.is_file() for path in stored) == 2 * len(FILES)
    assert all(path.stat().st_mode & 0o026 == 0o004 for path in stored), "all read, none writes"
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
    assert "kept" not in printed and stored == [shared, *shared.rglob("*")]


@needs_bash
def test_the_link_for_the_class_copies_the_student_edition(tmp_path):
    """A real Jupyter server with nbgitpuller, which the `test` extra brings."""
    parts = urllib.parse.urlsplit(block("git-pull").strip())
    parameters = dict(urllib.parse.parse_qsl(parts.query, strict_parsing=True))
    assert parts.path == "/hub/user-redirect/git-pull"
    assert set(parameters) == {"repo", "branch", "urlpath"}  # as nbgitpuller documents them
    home, port, edition = tmp_path / "home", free_port(), tmp_path / "edition"
    home.mkdir()
    student.main([str(edition)])
    for command in (f"init -q -b {parameters['branch']}", "add .", "commit -q -m edition"):
        git = ["git", "-c", "user.name=lane", "-c", "user.email=lane@example.org"]
        subprocess.run([*git, *command.split()], cwd=edition, check=True)
    environment = os.environ | {"HOME": str(home), "JUPYTER_CONFIG_DIR": str(home / ".jupyter")}
    environment |= colab.redirect(parameters["repo"], edition.as_uri())
    command = [sys.executable, "-m", "jupyter_server", "--no-browser", f"--port={port}"]
    command += ["--IdentityProvider.token=", "--allow-root", f"--ServerApp.root_dir={home}"]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=home, env=environment, stdout=log, stderr=log)
    try:
        address = f"http://127.0.0.1:{port}"
        answers(f"{address}/api")
        page = answers(f"{address}/git-pull?{parts.query}")
        assert parameters["urlpath"] in page and parameters["repo"] in page
        events = answers(f"{address}/git-pull/api?{parts.query}")
        assert '"phase": "finished"' in events, events
    finally:
        server.terminate()
        server.wait(30)
    opened = home / parameters["urlpath"].removeprefix("lab/tree/")
    assert opened.read_bytes() == (edition / opened.name).read_bytes()


def test_the_page_is_plain_markdown_stamped_with_the_address():
    text = PAGE.read_text("utf-8")
    install = 'sudo -E pip install "labkit[lab] @ git+{url}@v{version}"\n'
    assert block("sudo -E pip") == install.format(**stamp.words()), "run `make stamp`"
    assert set(re.findall(r"^```(.*)$", text, re.M)) == {"", "python"} and ":::" not in text
    for target in re.findall(r"\]\((?!https?://|#)([^)\s]+)\)", text):
        assert (PAGE.parent / target).exists(), target


@pytest.mark.parametrize(
    ("address", "right"),
    [
        ("https://github.com/some-one/lab.book.git", True),
        ("https://gitlab.com/group/sub/lab-book/", True),
        ("https://git.example.org:8443/gitea/some_one/lab", True),
        ("https://github.com/a/b/tree/main", False),
        ("https://gitlab.com/a/b/-/tree/main", False),
        ("https://me:secret@gitlab.com/a/b", False),
    ],
)
def test_an_address_on_github_gitlab_or_gitea_is_written(address, right, tmp_path, monkeypatch):
    (tmp_path / "_config.yml").write_bytes((ROOT / "_config.yml").read_bytes())
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    monkeypatch.setattr(stamp, "ROOT", tmp_path)
    if not right:
        with pytest.raises(ValueError, match="neither"):
            stamp.write_address(address)
        return
    stamp.write_address(address)
    url = address.removesuffix("/").removesuffix(".git")
    assert stamp.address()[0] == url
    text, quoted = stamp.stamp_places(PAGE.read_text("utf-8")), urllib.parse.quote(url, safe="")
    assert "your_github_account" not in text and f"git+{url}@v" in text
    assert f"repo={quoted}&branch=student&urlpath=lab%2Ftree%2F{url.split('/')[-1]}%2F00_" in text
    binder = "gh/some-one/lab.book" if "github.com" in url else f"git/{quoted}"
    assert f"mybinder.org/v2/{binder}/student?urlpath=lab%2Ftree%2F00_start_here.ipynb" in text
    pages = {"github.com": "github.io", "gitlab.com": "gitlab.io"}.get(url.split("/")[2], "none")
    assert (f".{pages}/" in book.site_address(url)) == (pages != "none")
    badges = [stamp.badge("00_start_here", student=kind) for kind in (False, True)]
    assert all(stamp.BADGE_PATTERN.fullmatch(badge) for badge in badges)
    assert all(("Colab" in badge) == ("github.com" in url) for badge in badges)


def test_binder_starts_the_student_edition_on_the_small_digits(tmp_path):
    """repo2docker reads a version only from `python=3.x`; it takes 3.10 for anything else."""
    for text in ((ROOT / "environment.yml").read_text("utf-8"), student.ENVIRONMENT):
        version = re.search(r"^  - python=(3\.\d+)\b", text, re.M)[1]
        assert tuple(map(int, version.split("."))) >= (3, 11)
    (tmp_path / "start").write_text(student.START)
    if os.name != "nt":
        said = subprocess.check_output(["sh", tmp_path / "start", "env"], text=True)
        assert "LABKIT_DATASET=digits" in said.splitlines()
    opened = r"mybinder\.org/v2/\S+?/student\?urlpath=lab%2Ftree%2F(\w+\.ipynb)"
    for page in (PAGE, ROOT / "README.md"):
        (name,) = re.findall(opened, page.read_text("utf-8"))
        assert (ROOT / "notebooks" / name).is_file()
