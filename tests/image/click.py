"""Stand-in for click, which is installed for developers, but not in the image.

httpx imports its own command line, with click, rich and pygments, if click is there. The worker's
processes in tests have this folder on PYTHONPATH, so that they start as the image does.
"""

raise ImportError("not installed, as in the image")
