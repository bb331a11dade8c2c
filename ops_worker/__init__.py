"""Health and metrics passes for an IoT platform, one process each.

The one idea is **a pass**: facts come in at the edges, the core judges them, one transaction writes them, one line
tells of them, one exit code ends it. A CronJob runs a pass per process; a person runs the same pass by hand.

Follow one probe result through the program::

    catalogue    names a Target                    "http://iot-ingest:8080/health is ingest"
    edges.probes makes an Observation of it        facts only: a status, a latency, a body, or why there is none
    core.health  judges it: a Verdict              healthy, degraded, down or unknown, and the reason
    core.health  decides what it changes: Update   the streak, and whether an alert opens or closes
    edges.store  keeps it                          one short transaction, begun after the network is done
    core.report  tells of it                       the closing line, the table or the JSON document
    cli          ends it                           the exit code

The layers, each of which may import the ones to its right and never back (checked by import-linter)::

    cli -> commands -> loop -> passes -> edges -> core          settings and, below it, catalogue stand beside them, above core

``catalogue`` is what is watched and counted, as data: a packaged TOML file, and a user's. ``commands.passes`` runs the passes; the
other ``commands`` are for people: ``manifests`` holds their rules of Kubernetes manifests, ``edges.cluster`` asks Kubernetes,
``edges.store.people`` is what they do in the database, ``edges.store.past`` what they look back on; ``edges.screen`` draws on a
terminal and ``edges.page`` writes a page.
``loop`` runs the same passes again and again, each in a thread of its own; a pass does not know whether it is looped.

``core`` reads no clock, socket, file or environment. An edge is the only door to its outside world: ``edges.probes``
imports httpx, ``edges.store`` imports psycopg, ``edges.endpoint`` serves HTTP, nobody else does. ``settings`` alone reads the environment.

Read ``passes/health.py`` first.
"""

__version__ = "0.1.0"
