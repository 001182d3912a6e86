"""The four files of a dataset: from the data folder, from LABKIT_MIRROR, or from the internet.

Only the official files of `datasets.toml` are used, byte for byte. The process's standard output
and its settings for sockets are left alone, so this may run in any thread.
"""

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
STALL, STEP = 10, 32_768  # seconds in which so many bytes have to come, or the last one
DEADLINE = 300  # seconds for everything
ABSENT = "the files are not there"


class WrongContent(OSError):
    """A file is not the official one."""


def settings() -> tuple[Path, str, str]:
    """LABKIT_DATA, LABKIT_MIRROR, LABKIT_DATASET; ValueError, without a password, for a bad one."""
    folder = files.folder("LABKIT_DATA", platformdirs.user_cache_dir)
    dataset, mirror = files.setting("LABKIT_DATASET"), files.setting("LABKIT_MIRROR").rstrip("/")
    if dataset not in ("", "mnist", "digits"):
        raise ValueError(f"LABKIT_DATASET must be 'mnist' or 'digits' (or not set): {dataset!r}")
    if mirror and not re.fullmatch(r"(https?://([^/]*@)?[^/@?#\s]+|file://)(/[^?#\s]*)?", mirror):
        raise ValueError(
            "LABKIT_MIRROR must be the address of a folder, http://…, https://… or file:///…, "
            "without ?, # or blanks"
        )
    return folder, mirror, dataset


def stored(name: str, folder: Path, say: Callable = print) -> dict[str, bytes]:
    """Those of the four files that are in the data folder; `say` gets a line for each bad one."""
    found, official = {}, DATASETS[name]["files"]
    places = [folder / f"labkit-{name}", folder / name]
    places += [folder / DATASETS[name]["torchvision"] / "raw"] + [folder] * (name == "mnist")
    for path in (place / file for place in places for file in official):
        try:
            if path.name not in found and path.is_file():
                size, md5 = official[path.name]
                with path.open("rb") as file:
                    found[path.name] = _checked(file.read(size + 1), size, md5)
        except OSError as error:
            say(f"labkit: {path.name} of {name} in LABKIT_DATA is not used: {_reason(error)}.")
    return found


def fetch(name: str, folder: Path, mirror: str) -> dict[str, bytes]:
    """The four files by name, each from the first place that has it, and kept in `folder`.

    Raises ConnectionError, which says for each place why it has not.
    """
    found, official = stored(name, folder), DATASETS[name]["files"]
    reasons, end = {}, time.monotonic() + DEADLINE
    for label, address, opener in _sources(name, mirror):
        if len(found) == len(official) or reasons.get(label, ABSENT) != ABSENT:
            continue
        if address.startswith("http"):
            files.say_once(f"labkit: downloading {name} …")
        try:
            for file in [file for file in official if file not in found]:
                size, md5 = official[file]
                body = _download(opener, f"{address}/{file}", size, end)
                found[file] = _checked(body, size, md5)
                path = folder / f"labkit-{name}" / file
                with files.optional(f"a copy of {name}", "LABKIT_DATA"), files.whole(path) as copy:
                    copy.write(body)
        except Exception as error:
            reasons[label] = _reason(error)
            if isinstance(error, WrongContent):
                print(f"labkit: {file} of {name} from {label} is not used: {reasons[label]}.")
    if len(found) < len(official):
        raise ConnectionError("\n".join(f"- {label}: {why}" for label, why in reasons.items()))
    return found


def _checked(body: bytes, size: int, md5: str) -> bytes:
    if len(body) == size and hashlib.md5(body, usedforsecurity=False).hexdigest() == md5:
        return body
    if body.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"<"):
        raise WrongContent("it is a web page; log in to this network, or correct the address")
    what = "wrong checksum" if len(body) == size else f"{len(body):,} bytes where {size:,} belong"
    raise WrongContent(f"it is damaged or another file ({what})")


def _sources(name: str, mirror: str) -> Iterator[tuple[str, str, request.OpenerDirector]]:
    """What to call it, an address to try there, and what opens it; LABKIT_MIRROR is asked without
    a proxy first, since a proxy may not reach a machine in the same room."""
    if mirror:
        parts, login = urlsplit(mirror), []
        mirror = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        if parts.username:
            known = request.HTTPPasswordMgrWithPriorAuth()
            user = unquote(parts.username), unquote(parts.password or "")
            known.add_password(None, mirror, *user, is_authenticated=True)
            login = [request.HTTPBasicAuthHandler(known)]
        openers = {"": request.build_opener(request.ProxyHandler({}), *login)}
        openers[_proxy(mirror)] = request.build_opener(*login)  # the same if there is no proxy
        for proxy, opener in openers.items():
            for folder in (f"/{name}", f"/labkit-{name}", "")[: 2 + (name == "mnist")]:
                yield f"LABKIT_MIRROR{proxy}", mirror + folder, opener
    for address in DATASETS[name]["mirrors"]:
        yield urlsplit(address).netloc + _proxy(address), address, request.build_opener()


def _proxy(address: str) -> str:
    """The proxy that the environment names for an address, in words, without its password."""
    scheme, host = urlsplit(address)[:2]
    proxy = request.getproxies().get(scheme, "").rstrip("/")
    bypassed = not proxy or request.proxy_bypass(host)
    return "" if bypassed else " through the proxy " + re.sub(r".*(//|@)", "", proxy)


def _download(opener: request.OpenerDirector, url: str, size: int, end: float) -> bytes:
    """At most one byte more than `size`; TimeoutError if too little comes, or after `end`.

    In a thread, since neither DNS nor a server that drips bytes obeys a socket's timeout; if it is
    given up, it ends at its next byte.
    """
    body, failures, over = bytearray(), [], threading.Event()
    size += 1

    def work():
        try:
            with opener.open(url, timeout=TIMEOUT) as response:
                while not over.is_set() and (part := response.read1(min(STEP, size - len(body)))):
                    body.extend(part)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    seen, until = -STEP, 0.0
    try:
        while thread.is_alive():
            if len(body) >= seen + STEP:
                seen, until = len(body), min(end, time.monotonic() + STALL)
            if time.monotonic() > until:
                raise TimeoutError("timed out")
            thread.join(0.1)
    finally:
        over.set()
    if failures:
        raise failures[0]
    return bytes(body)


def _reason(error: Exception) -> str:
    """One line without an address, a password or a path of this machine."""
    if isinstance(error, HTTPError):
        named = f"HTTP error {error.code}, {responses.get(error.code, 'unknown')}"
        named = "it redirects in a circle" if "infinite loop" in error.reason else named
        return ABSENT if error.code == 404 else named
    error = error.reason if isinstance(error, URLError) else error
    text = ABSENT if isinstance(error, FileNotFoundError) else getattr(error, "strerror", None)
    text = text or str(error) or type(error).__name__
    return "".join(c for c in text if c.isprintable())[:200]
