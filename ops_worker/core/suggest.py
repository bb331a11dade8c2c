"""Near misses: which of the names that are known a person most likely meant by one that is not."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

MAX_LENGTH = 200
"""Characters of a word that is compared; no name is as long."""
LIKE, VERY_LIKE = 0.6, 0.85
"""How like two names have to be, from 0 to 1: that of a command, and that of a variable."""
PREFIXES = ("OPS_WORKER_", "OPSWORKER_")
"""What people put before the name of a variable, where none belongs."""
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
"""Words of a variable's name, after the first one, and those that are the same to a person."""
UNITS = frozenset({"S", "SEC", "SECS", "SECONDS"})
FOREIGN = frozenset({"PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE"})
"""Variables of libpq that differ from ours by an underscore or so, and are meant."""
SYSTEM = frozenset({"HOSTNAME"})
"""Variables that no person sets, so that none is a misspelling of them."""
LINK = re.compile(r"(tcp|udp|sctp)://")
"""How the value of NAME_PORT begins where Kubernetes sets it, for a Service of that name."""


def meant(word: str, known: Iterable[str], least: float = LIKE) -> str:
    """Return the known name that a word is most like; nothing where there is none.

    Capitals and the signs between words make no difference.
    """
    from difflib import get_close_matches

    plain, asked = {_plain(name): name for name in known}, _plain(word[:MAX_LENGTH])
    found = get_close_matches(asked, plain, n=1, cutoff=least)
    turned = [name for name in plain if asked and sorted(name) == sorted(asked)]
    return plain[(found or turned)[0]] if found or turned else ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a question to put after an error about an unknown word; nothing without an idea."""
    name = meant(word, known)
    return f"; did you mean {name}?" if name else ""


def variable(name: str, value: str, known: Collection[str]) -> str:
    """Return the variable that a variable of the environment nearly is, or nothing.

    The environment holds variables of others as well: one that differs by whole words or by a
    number, or that libpq or Kubernetes gives a meaning, is no misspelling.
    """
    if name in known or name in FOREIGN or LINK.match(value):
        return ""
    bare = _bare(name)
    if bare.rstrip("0123456789") in known and bare not in known:
        return ""
    words = _words(bare)
    mine = {_bare(one): one for one in known if one not in SYSTEM}
    same = {"".join(_words(ours)): one for ours, one in mine.items()}
    if found := same.get("".join(words)):
        return found
    near = meant("".join(words), mine, VERY_LIKE)
    return "" if {*_words(near)} <= {*words} else mine.get(near, "")


def _bare(name: str) -> str:
    name = name.upper()
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _words(name: str) -> list[str]:
    """Divide a variable's name into words, each as one of those that mean the same."""
    first, *others = re.findall(r"[^\W_]+", name) or [""]
    while others and others[-1] in UNITS:
        others.pop()
    return [first, *(SYNONYMS.get(word, word) for word in others)]


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).casefold()
