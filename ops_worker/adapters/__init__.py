"""The outside. Only here does the worker touch the network or the database; edges never import each other."""
