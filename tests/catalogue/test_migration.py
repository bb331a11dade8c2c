"""The page for users of other tools: every line of its tables is a valid catalogue."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ops_worker.catalogue import Source, Surroundings, load
from ops_worker.catalogue.entries import ServiceEntry
from ops_worker.core.conditions import RELATIONS
from tests.adapters.http.endpoints import ENDPOINTS

pytestmark = pytest.mark.unit

PAGE = (Path(__file__).parents[2] / "docs" / "migration.md").read_text(encoding="utf-8")
TOOLS = ("Gatus", "blackbox_exporter", "Uptime Kuma")
# A file of another machine is not read, and its variables need no values.
ELSEWHERE = Surroundings({}, known=False)


def section(title: str) -> str:
    """Return the text below a heading."""
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def lines(tool: str) -> list[tuple[str, str]]:
    """Return the rows of a tool's table: the option of the tool, and the keys of the catalogue."""
    rows = re.findall(r"^\| (.+) \| (.+) \|$", section(tool), re.MULTILINE)
    assert rows[0] == (tool, "catalogue")
    return rows[1:]


LINES = [
    pytest.param(ours, id=f"{tool}: {theirs}") for tool in TOOLS for theirs, ours in lines(tool)
]


@pytest.mark.parametrize("ours", LINES)
def test_line(ours: str) -> None:
    """The keys of a row make a service without a fault. Its cell contains nothing else."""
    keys = re.findall(r"`([^`]+)`", ours)
    assert " ".join(f"`{key}`" for key in keys) == ours
    if not any(key.startswith("url = ") for key in keys):
        keys.insert(0, 'url = "https://shop.example"')
    text = "\n".join(["builtin = false", "[services.a]", *keys])
    catalogue, faults = load(Source("c.toml", text), ELSEWHERE)
    assert not faults + catalogue.faults
    assert len(catalogue.targets) + len(catalogue.unmonitored) == 1


def test_every_key_of_a_probe_is_there() -> None:
    """The page has every key that changes the request or the rule for healthy."""
    names = {field.alias or name for name, field in ServiceEntry.model_fields.items()}
    elsewhere = {"series", "counters", "counters_at", "needs", "slo", "slo_window"}
    keys = set(re.findall(r"`(\w+) = ", "".join(map(section, TOOLS))))
    assert keys == names - elsewhere


def test_numbers() -> None:
    """The number of endpoints in the text equals the number of rows in their table."""
    unsupported = [endpoint for endpoint in ENDPOINTS if endpoint.entry is None]
    for kind, asks in (("push", "push"), ("DNS record", "dns")):
        of_kind = [endpoint for endpoint in unsupported if endpoint.asks.startswith(asks)]
        number = sum(endpoint.number for endpoint in of_kind)
        row = f"| {number} | {kind} | {len({endpoint.source for endpoint in of_kind})} |"
        assert row in section("What stays out")
    every = sum(endpoint.number for endpoint in ENDPOINTS)
    left_out = sum(endpoint.number for endpoint in unsupported)
    assert f"have {every} endpoints. {every - left_out - 1} of them are" in PAGE
    assert left_out == 10 and "These are the other ten:" in PAGE


def test_every_relation_is_documented() -> None:
    """The page of the catalogue explains each relation once."""
    page = (Path(__file__).parents[2] / "docs" / "catalogue.md").read_text(encoding="utf-8")
    table = page.partition("| relation |")[2].partition("\n\n")[0]
    first_cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    assert re.findall(r"`(\w+)`", " ".join(first_cells)) == list(RELATIONS)
