"""The rules. Nothing here reads a clock, socket, file or environment variable.

Times and facts come in as values.
"""
