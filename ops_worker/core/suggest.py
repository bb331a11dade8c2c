"""Suggestions for misspelled commands, names and environment variables."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

MAX_LENGTH = 200
"""Characters of a word that are compared; every known name is shorter."""
SIMILAR, VERY_SIMILAR = 0.6, 0.85
"""Similarity, from 0 to 1, from which a name is suggested: a command, and a variable.

The environment holds variables of other programs, so a variable must be more similar.
"""
PREFIXES = ("OPS_WORKER_", "OPSWORKER_")
"""Prefixes that people add to the name of a variable, where none is needed."""
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
"""Words that mean the same in the name of a variable, except as its first word."""
UNITS = frozenset({"S", "SEC", "SECS", "SECONDS"})
"""Units that people append to the name of a variable."""
FOREIGN = frozenset({"PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGPASSFILE", "PGDATABASE"})
"""Variables of libpq. They resemble ours, but are not misspelled."""
SYSTEM = frozenset({"HOSTNAME"})
"""Variables that the system sets, so nobody can misspell them."""
LINK = re.compile(r"(tcp|udp|sctp)://")
"""How the value of NAME_PORT begins when Kubernetes sets it for a Service of that name."""


def closest(word: str, known: Iterable[str], similarity: float = SIMILAR) -> str:
    """Return the known name that is most similar to a word; empty if none is.

    Case and punctuation make no difference.
    """
    from difflib import get_close_matches

    names = {_plain(name): name for name in known}
    plain = _plain(word[:MAX_LENGTH])
    if not plain:
        return ""
    matches = get_close_matches(plain, names, n=1, cutoff=similarity)
    if not matches:
        # Swapped letters make short names very different for difflib.
        matches = [name for name in names if sorted(name) == sorted(plain)]
    return names[matches[0]] if matches else ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a question to append to the error about an unknown word; empty if no name is close."""
    name = closest(word, known)
    return f"; did you mean {name}?" if name else ""


def intended_variable(name: str, value: str, known: Collection[str]) -> str:
    """Return the known variable that an environment variable probably means; empty if none.

    Variables of other programs are not misspellings: those that differ by whole words or by a
    number, and those that libpq or Kubernetes defines.
    """
    if name in known or name in FOREIGN or LINK.match(value):
        return ""
    bare = _bare(name)
    if bare.rstrip("0123456789") in known and bare not in known:
        return ""
    words = _words(bare)
    joined = "".join(words)
    candidates = {_bare(known_name): known_name for known_name in known if known_name not in SYSTEM}
    same_words = {
        "".join(_words(candidate)): known_name for candidate, known_name in candidates.items()
    }
    if joined in same_words:
        return same_words[joined]
    near = closest(joined, candidates, VERY_SIMILAR)
    if {*_words(near)} <= {*words}:
        return ""
    return candidates.get(near, "")


def _bare(name: str) -> str:
    """Return the name of a variable in upper case, without a prefix."""
    name = name.upper()
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _words(name: str) -> list[str]:
    """Return the words of a variable's name, without units, and synonyms as one word."""
    first, *others = re.findall(r"[^\W_]+", name) or [""]
    while others and others[-1] in UNITS:
        others.pop()
    return [first, *(SYNONYMS.get(word, word) for word in others)]


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).casefold()
