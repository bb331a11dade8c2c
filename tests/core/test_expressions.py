from __future__ import annotations

import sys

import pytest

from ops_worker.core import expressions
from ops_worker.core.expressions import MAX_STEPS, NO_EXTRA, TooLongError, matches, problem

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "expression", "expected"),
    [
        ("status: ok", "ok$", True),
        ("status: ok\n", "ok$", False),
        ("a\nb", "^b", False),
        ("a\nb", "(?m)^b", True),
        ("OK", "ok", False),
        ("OK", "(?i)ok", True),
        ("größe", "^gr..e$", True),
        ("a\udcff", "^a.$", True),
        ("", "^$", True),
    ],
)
def test_matches(text: str, expression: str, expected: bool) -> None:
    """An expression may match anywhere in a text of any characters."""
    assert matches(text, expression) is expected


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("^ok$", ""),
        ("(a", "not an RE2 expression: missing ): (a"),
        ("a(?=b)", "not an RE2 expression: invalid perl operator: (?="),
        (r"(a)\1", r"not an RE2 expression: invalid escape sequence: \1"),
        ("((((a{100}){100}){100}){100})", "not an RE2 expression: invalid repetition size: {100}"),
        ("(\\pL{500}\\pN{500}){2}", "not an RE2 expression: pattern too large - compile failed"),
        ("a\n(", "not an RE2 expression: missing ): a ("),
    ],
)
def test_problem(capfd: pytest.CaptureFixture[str], expression: str, why: str) -> None:
    """An expression that RE2 refuses has a problem in one line. RE2 itself prints nothing."""
    assert problem(expression).startswith(why) and bool(problem(expression)) == bool(why)
    assert capfd.readouterr() == ("", "")


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, the problem says which extra to install."""
    expressions._refusal.cache_clear()
    monkeypatch.setitem(sys.modules, "re2", None)
    assert problem("^ok$") == NO_EXTRA
    assert "pip install 'ops-worker[re2]'" in NO_EXTRA


def test_hostile_text() -> None:
    """An expression that takes Python's `re` forever ends here. Its time is linear."""
    assert not matches("a" * (1 << 20), "(a|aa)+(a+a+)+b")


@pytest.mark.parametrize("expression", [".{0,900}b", "(?s)error.{0,900}timeout"])
def test_long_texts(expression: str) -> None:
    """A text that may take too long is refused. RE2 matches a shorter text in its fast mode."""
    assert not problem(expression)
    matcher = expressions._matcher(expression)
    assert matcher.options.max_mem == expressions.MATCH_MEMORY
    longest = MAX_STEPS // matcher.programsize
    assert 64_000 < longest < 1 << 20
    assert not matches("e" * longest, expression)
    with pytest.raises(TooLongError, match=f"^longer than {longest} bytes, which is too long"):
        matches("e" * (longest + 1), expression)
