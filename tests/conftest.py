"""What the tests of all notebooks' exercises share, and a core for each of several workers."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))
import cores  # noqa: E402


def pytest_configure():
    """With pytest-xdist (`-n 2`), each worker and its notebooks' kernels keep to their cores."""
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        workers = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        cores.take_share(int(worker.removeprefix("gw")), workers)


@pytest.fixture
def judge(capsys):
    """judge(exercise, answer, words): ✓ where `words` is None, else ✗ with these words."""

    def judge(exercise, answer, words):
        exercise(answer)
        out = capsys.readouterr().out
        if words is None:
            assert out.startswith("✓"), out
        else:
            assert out.startswith("✗") and words in out, out

    return judge
