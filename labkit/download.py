"""The four official files of a dataset, as `datasets.toml` lists them: from the data folder, from
LABKIT_MIRROR, or from the internet. All this may run in any thread."""

import hashlib
import re
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from http.client import responses
from importlib import resources
from pathlib import Path
from urllib import request
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit

import platformdirs

from labkit import files

DATASETS = tomllib.loads(resources.files("labkit").joinpath("datasets.toml").read_text("utf-8"))
TIMEOUT = 5  # seconds a server may take to connect, or to send the next bytes
STALL, STEP, DEADLINE = 10, 32_768, 300  # seconds for so many bytes, and seconds for everything
ABSENT = "No such file or directory"


def settings() -> tuple[Path, str, str]:
    """LABKIT_DATA, LABKIT_MIRROR, LABKIT_DATASET; ValueError, without a password, for a bad one."""
    folder = files.folder("LABKIT_DATA", platformdirs.user_cache_dir)
    dataset, mirror = files.setting("LABKIT_DATASET"), files.setting("LABKIT_MIRROR").rstrip("/")
    if dataset not in ("", "mnist", "digits"):
        raise ValueError(f"LABKIT_DATASET must be 'mnist' or 'digits' (or not set): {dataset!r}")
    if mirror and not re.fullmatch(r"(https?://([^/]*@)?[^/@?#\s]+|file://)(/[^?#\s]*)?", mirror):
        good = "http://…, https://… or file:///…, without ?, # or blanks"
        raise ValueError(f"LABKIT_MIRROR must be the address of a folder, {good}")
    return folder, mirror, dataset


def stored(name: str, folder: Path, say: Callable = print) -> dict[str, bytes]:
    """Those of the four files that are in the data folder; `say` gets a line for each wrong one."""
    found, official = {}, DATASETS[name]["files"]
    places = [f"labkit-{name}", name, f"{DATASETS[name]['torchvision']}/raw", "."]
    for path in (folder / p / f for p in places[: 3 + (name == "mnist")] for f in official):
        try:
            if path.name not in found and path.is_file():
                size, md5 = official[path.name]
                with path.open("rb") as file:
                    found[path.name] = _checked(path.name, file.read(size + 1), size, md5)
        except OSError as error:
            say(f"labkit: {name} is not from LABKIT_DATA: {_reason(error)}.")
    return found


def fetch(name: str, folder: Path, mirror: str) -> dict[str, bytes]:
    """The four files by name, each from the first place that has it, and kept in `folder`; or a
    ConnectionError, which says for each place why it failed."""
    found, official = stored(name, folder), DATASETS[name]["files"]
    reasons, end = {}, time.monotonic() + DEADLINE
    for label, address, opener in _sources(name, mirror):
        if len(found) == len(official) or reasons.get(label, ABSENT) != ABSENT:
            continue
        if address.startswith("http"):
            files.say_once(f"labkit: downloading {name} …")
        try:
            for file in [file for file in official if file not in found]:
                body = _download(opener, f"{address}/{file}", official[file][0], end)
                found[file] = _checked(file, body, *official[file])
                path = folder / f"labkit-{name}" / file
                with files.optional(f"a copy of {name}", "LABKIT_DATA"), files.whole(path) as copy:
                    copy.write(body)
            reasons.pop(label, None)
        except Exception as error:
            reasons[label] = _reason(error)
    lines = [f"- {label}: {reason}" for label, reason in reasons.items()]
    if len(found) < len(official):
        raise ConnectionError("\n".join(lines))
    if lines:
        print(f"labkit: {name} came from elsewhere, since these failed:", *lines, sep="\n")
    return found


def copy(name: str, target: str) -> None:
    """Write the four files into a folder: torchvision looks for MNIST's in `MNIST/raw`."""
    for file, body in fetch(name, *settings()[:2]).items():
        with files.whole(Path(target, file)) as out:
            out.write(body)


def _checked(file: str, body: bytes, size: int, md5: str) -> bytes:
    if len(body) == size and hashlib.md5(body, usedforsecurity=False).hexdigest() == md5:
        return body
    what = "wrong checksum" if len(body) == size else f"{len(body):,} bytes instead of {size:,}"
    if body.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"<"):
        what = "a web page: log in to this network, or correct the address"
    raise OSError(f"{file} is not the official file ({what})")


def _sources(name: str, mirror: str) -> Iterator[tuple[str, str, request.OpenerDirector]]:
    """The name of each source, an address there, and an opener. LABKIT_MIRROR may be in the same
    room, out of a proxy's reach, so it is tried without one first."""
    if mirror:
        parts, known = urlsplit(mirror), request.HTTPPasswordMgrWithPriorAuth()
        mirror = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        user = unquote(parts.username or ""), unquote(parts.password or "")
        known.add_password(None, mirror, *user, is_authenticated=bool(parts.username))
        login = request.HTTPBasicAuthHandler(known)
        openers = {"": request.build_opener(request.ProxyHandler({}), login)}
        openers[_proxy(mirror)] = request.build_opener(login)  # the same if there is no proxy
        for proxy, opener in openers.items():
            for folder in (f"/{name}", f"/labkit-{name}", "")[: 2 + (name == "mnist")]:
                yield f"LABKIT_MIRROR{proxy}", mirror + folder, opener
    for address in DATASETS[name]["mirrors"]:
        yield urlsplit(address).netloc + _proxy(address), address, request.build_opener()


def _proxy(address: str) -> str:
    """The proxy that the environment names for an address, in words, without its password."""
    scheme, host = urlsplit(address)[:2]
    proxy = request.getproxies().get(scheme, "").rstrip("/")
    proxy = "" if request.proxy_bypass(host) else re.sub(r".*(//|@)", "", proxy)
    return proxy and f" through the proxy {proxy}"


def _download(opener: request.OpenerDirector, url: str, size: int, end: float) -> bytes:
    """At most one byte more than `size`; TimeoutError if too little comes, or after `end`. In a
    thread, since neither DNS nor a server that drips bytes obeys a socket's timeout."""
    body, failures, over = bytearray(), [], threading.Event()

    def work():
        try:
            with opener.open(url, timeout=TIMEOUT) as response:
                while not over.is_set() and (part := response.read1(size + 1 - len(body))):
                    body.extend(part)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    seen, until = -STEP, 0.0
    while thread.is_alive():
        if len(body) >= seen + STEP:
            seen, until = len(body), min(end, time.monotonic() + STALL)
        if time.monotonic() > until:
            over.set()
            raise TimeoutError("timed out")
        thread.join(0.1)
    if failures:
        raise failures[0]
    return bytes(body)


def _reason(error: Exception) -> str:
    """One line without an address, a password or a path of this machine."""
    if isinstance(error, HTTPError):
        circle = "infinite loop" in error.reason and "it redirects in a circle"
        named = circle or f"HTTP error {error.code}, {responses.get(error.code, 'unknown')}"
        return ABSENT if error.code == 404 else named
    error = error.reason if isinstance(error, URLError) else error
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return "".join(c for c in text if c.isprintable())[:200]
