"""`python -m tools.grading FILE...` grades submitted notebooks; see `tools.grading.grade`."""

from tools.grading.grade import main

main()
