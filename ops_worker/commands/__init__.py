"""The commands, one module each: options, call, output and exit code."""
