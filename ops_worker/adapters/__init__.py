"""The only code that uses the network, the database, files and terminals.

Adapters never import each other.
"""
