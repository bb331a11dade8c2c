"""Suggestions for misspelled commands, names and environment variables."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

MAX_LENGTH = 200
"""The maximum number of characters of a word that are compared. Every known name is shorter."""
SIMILAR = 0.6
"""Similarity, from 0 to 1, from which a name is suggested for a word."""
VERY_SIMILAR = 0.85
"""Similarity from which a variable is suggested for a variable of the environment.

It is higher, because the environment has variables of other programs.
"""
PREFIXES = ("OPS_WORKER_", "OPSWORKER_")
"""Prefixes that people add to the name of a variable. The variables have no prefix."""
SYNONYMS = {
    "PASSWORD": "PASS",
    "PASSWD": "PASS",
    "PWD": "PASS",
    "DATABASE": "DB",
    "DBNAME": "DB",
    "USERNAME": "USER",
    "HOSTNAME": "HOST",
    "URI": "URL",
}
"""Words in the name of a variable, with the word that has the same meaning.

The first word of a name is not replaced.
"""
UNITS = frozenset({"S", "SEC", "SECS", "SECONDS"})
"""Units that people add to the end of a variable's name."""
FOREIGN = frozenset({"PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGPASSFILE", "PGDATABASE"})
"""Variables of libpq. They are similar to variables of the worker, but no misspellings."""
SYSTEM = frozenset({"HOSTNAME"})
"""Variables that the system sets. Because no person writes them, they are never suggested."""
SERVICE_VALUE = re.compile(r"(tcp|udp|sctp)://")
"""The beginning of the value of NAME_PORT, which Kubernetes sets for a Service called name."""


def closest(word: str, known: Iterable[str], similarity: float = SIMILAR) -> str:
    """Return the known name that is most similar to a word; empty if no name is similar.

    Case and punctuation are ignored. ``similarity`` is the minimum, from 0 to 1.
    """
    return _closest(word, {_plain(name): name for name in known}, similarity)


def _closest(word: str, names: Mapping[str, str], similarity: float) -> str:
    """Return the most similar name. ``names`` has the names by their letters and digits."""
    from difflib import get_close_matches

    plain = _plain(word[:MAX_LENGTH])
    if not plain:
        return ""
    matches = get_close_matches(plain, names, n=1, cutoff=similarity)
    if not matches:
        # For difflib, a short name with swapped letters is too different.
        matches = [name for name in names if sorted(name) == sorted(plain)]
    return names[matches[0]] if matches else ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a question for the end of a message about an unknown word; empty without a match."""
    name = closest(word, known)
    return f"; did you mean {name}?" if name else ""


def intended_variable(name: str, value: str, known: Collection[str]) -> str:
    """Return the known variable of which a variable is probably a misspelling; empty if none.

    A variable is not a misspelling if it differs by whole words or by a number at its end, or if
    libpq or Kubernetes defines it. Such variables belong to other programs.
    """
    if name in known or name in FOREIGN or SERVICE_VALUE.match(value):
        return ""
    bare = _bare(name)
    if bare.rstrip("0123456789") in known and bare not in known:
        return ""
    words = _words(bare)
    joined_words = "".join(words)
    names = _known_names(frozenset(known))
    if joined_words in names.by_joined_words:
        return names.by_joined_words[joined_words]
    match = _closest(joined_words, names.by_plain_name, VERY_SIMILAR)
    # A variable with all words of the match and more words is not a misspelling.
    has_all_words = {*_words(match)} <= {*words}
    return "" if has_all_words else names.by_bare_name.get(match, "")


class _KnownNames(NamedTuple):
    """The known variables by three spellings of a name.

    ``by_plain_name`` has bare names instead of the variables.
    """

    by_bare_name: dict[str, str]
    by_joined_words: dict[str, str]
    by_plain_name: dict[str, str]


@lru_cache(maxsize=8)
def _known_names(known: frozenset[str]) -> _KnownNames:
    """Return the spellings of the known variables. They are the same for every variable."""
    by_bare_name = {_bare(name): name for name in sorted(known) if name not in SYSTEM}
    return _KnownNames(
        by_bare_name=by_bare_name,
        by_joined_words={"".join(_words(bare)): name for bare, name in by_bare_name.items()},
        by_plain_name={_plain(bare): bare for bare in by_bare_name},
    )


def _bare(name: str) -> str:
    """Return the name of a variable in upper case, without a prefix."""
    name = name.upper()
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _words(name: str) -> list[str]:
    """Return the words of a variable's name, without units at its end, and without synonyms."""
    first, *others = re.findall(r"[^\W_]+", name) or [""]
    while others and others[-1] in UNITS:
        others.pop()
    return [first, *(SYNONYMS.get(word, word) for word in others)]


def _plain(name: str) -> str:
    """Return the letters and digits of a name, without case."""
    return re.sub(r"[\W_]", "", name).casefold()
