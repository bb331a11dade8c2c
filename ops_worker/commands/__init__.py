"""The commands that are no pass: what they print, and the exit code."""
