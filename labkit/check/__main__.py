"""`python -m labkit.check FILE...` grades submitted notebooks; see `labkit.check.grade`."""

from labkit.check.grade import main

main()
