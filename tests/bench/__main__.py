"""``make bench``: run the benchmarks one after the other, print tables, and write bench.json.

The worker runs in a virtual environment with its dependencies only, compiled as in the image.
Compare the ratios of one run. The milliseconds depend on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

from tests.bench import figures, history, ledger, passes, rows, targets
from tests.bench.tools import environment, table
from tests.postgres import Postgres, load_platform

SECTIONS = ("passes", "targets", "latency", "rows", "figures", "history", "ledger", "shards")


def main() -> None:
    """Run the sections that the arguments name, each on a new server."""
    parser = argparse.ArgumentParser(prog="bench", description="Measure the worker.")
    parser.add_argument(
        "sections",
        nargs="*",
        choices=[[], *SECTIONS],
        metavar="SECTION",
        help=f"{', '.join(SECTIONS)}; all when none is named",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=20,
        help="how often a pass is run, in turn with the floor (20)",
    )
    parser.add_argument(
        "--targets",
        type=int,
        nargs="+",
        default=[100, 1000, 10_000],
        help="how many targets (100 1000 10000)",
    )
    parser.add_argument(
        "--devices",
        type=int,
        default=1_000_000,
        help="the fleet of the figures (1000000); twice as many alerts",
    )
    options = parser.parse_args()
    python = str(environment())
    worker = str(Path(python).with_name("ops-worker"))
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(machine)
    results: dict[str, Any] = {"machine": machine}
    most = max(options.targets)
    for section in options.sections or SECTIONS:
        with Postgres() as server:
            url = server.url()
            load_platform(url)
            plans: list[str] = []
            if section == "passes":
                results[section] = passes.run(python, worker, url, options.rounds)
            elif section == "targets":
                results[section] = targets.run(python, worker, url, tuple(options.targets))
            elif section == "latency":
                results[section] = targets.latencies(worker, url, most)
            elif section == "rows":
                results[section] = rows.run(url, tuple(options.targets[1:]))
            elif section == "figures":
                results[section], plans = figures.run(url, options.devices, 2 * options.devices)
            elif section == "history":
                results[section], plans = history.run(url, min(options.rounds, 5))
            elif section == "ledger":
                results[section] = ledger.run(url, min(options.rounds, 5))
            else:
                results[section] = targets.shards(worker, url, most)
        table(section, results[section])
        if plans:
            print("\n" + "\n".join(plans))
    Path("bench.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
