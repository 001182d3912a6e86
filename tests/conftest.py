"""What the tests of all notebooks' exercises share."""

import pytest


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
