"""The only code that touches the network, the database, files and terminals.

Adapters never import each other.
"""
