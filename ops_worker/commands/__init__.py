"""The commands. The module of a command has its options, its call, its output and exit code."""
