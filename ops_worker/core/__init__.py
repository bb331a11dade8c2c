"""The judgement. Nothing here reads a clock, a socket, a file or the environment: time and facts come in as values."""
