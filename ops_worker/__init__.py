"""Health and metrics passes for an IoT platform, one process each.

The central idea is **a pass**. Adapters collect facts, the core judges them, one transaction writes
them, one line reports them, and one exit code ends the process. A CronJob runs one pass per
process. A loop runs the same function repeatedly. A person runs the same pass by hand.

Follow the result of one probe through the program::

    catalogue          names a Target            "http://iot-ingest:8080/health is ingest"
    adapters.http      makes an Observation      facts only: status, latency, body or error
    core.health        judges it: a Verdict      healthy, degraded, down or unknown; the reason
    core.health        decides: a StateChange    the new row; whether an alert opens or closes
    adapters.postgres  writes it                 one short transaction, after the network is done
    core.output        reports it                closing line, table or JSON document
    cli                ends the process          the exit code

These are the layers. A layer may import the layers below it, never those above it::

    cli
    commands
    loop, manifest_rules, arguments
    passes
    adapters
    settings, variables, process, log, redact, sql
    catalogue, history
    core
    text
    errors

``core`` and ``history`` are pure: they read no clock, socket, file or environment. Adapters never
import each other, and each third-party library has one importer: only ``adapters.http`` imports
httpx, only ``adapters.postgres`` imports psycopg. import-linter checks these rules and the layers.

Read ``passes/health.py`` first.
"""

__version__ = "0.1.0"
