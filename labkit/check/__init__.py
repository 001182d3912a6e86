"""Checks of a notebook: `check.close`, `check.that`, `check.result`, and one per exercise.

`check.summary` says which exercises are done; `python -m labkit.check` grades a class.
"""

from labkit.check.core import CheckFailed, close, result, that
from labkit.check.nb00 import *  # noqa: F403
from labkit.check.nb01 import *  # noqa: F403
from labkit.check.nb02 import *  # noqa: F403
from labkit.check.nb03 import *  # noqa: F403
from labkit.check.nb04 import *  # noqa: F403
from labkit.check.nb05 import *  # noqa: F403
from labkit.check.nb06 import *  # noqa: F403
from labkit.check.progress import summary

__all__ = ["CheckFailed", "close", "result", "summary", "that"]
