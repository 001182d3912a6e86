"""Small IDX files, and real servers on this machine that hand them out well or badly."""

import base64
import contextlib
import gzip
import hashlib
import http.server
import socket
import threading

import numpy as np

FILES = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz",
         "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")  # fmt: skip
PAGE = b"\n<!DOCTYPE html><html><body>Welcome to Hotel Wifi. Please log in.</body></html>"


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


def official(files, mirrors=()):
    """What `labkit.download.DATASETS` says of a dataset, for these files."""
    known = {name: [len(body), hashlib.md5(body).hexdigest()] for name, body in files.items()}
    return {"source": "small IDX files", "torchvision": "MNIST", "mirrors": list(mirrors),
            "files": known}  # fmt: skip


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`; `how` spoils it.

    "short", "drip" (a byte each 0.1 s), "drip headers", "half" (then waits), "endless", "circle"
    (of redirections), "portal" (a web page for everything), "meet" (holds the last file back until
    two clients want it), "user:password" (asks for that).
    """

    daemon_threads = True

    def __init__(self, files, how="well"):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.how, self.seen, self.sent = files, how, [], 0
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
        login = "Basic " + base64.b64encode(how.encode()).decode()
        if ":" in how and self.headers["Authorization"] != login:
            return self.send_error(401)
        if how == "circle":
            self.send_response(302)
            self.send_header("Location", self.path)
            return self.end_headers()
        body = PAGE if how == "portal" else self.server.files.get(path)
        if body is None:
            return self.send_error(404)
        if how == "meet" and path.endswith(FILES[-1]):
            self.server.pair.wait(60)
        self.send_response(200)
        if how == "drip headers":
            self.flush_headers()
            self.drip(b"X-Slow: " + b"x" * 10_000)
        if how != "endless":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):  # the client has gone
            if how == "drip":
                return self.drip(body)
            self.wfile.write(body[: len(body) // 2] if how in ("short", "half") else body)
            if how == "half":
                self.server.over.wait(60)
            while how == "endless" and not self.server.over.is_set():
                self.server.sent += self.wfile.write(bytes(1 << 16))

    def drip(self, body):
        with contextlib.suppress(OSError):
            for i in range(len(body)):
                self.wfile.write(body[i : i + 1])
                if self.server.over.wait(0.1):
                    return

    def log_message(self, *args):
        pass


class Silent:
    """Accepts connections and never answers."""

    def __init__(self):
        self.listener, self.seen = socket.create_server(("127.0.0.1", 0)), []
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                self.seen.append(self.listener.accept()[0])

    def close(self):
        self.listener.close()
        for connection in self.seen:
            connection.close()
