"""The tests, and the test servers that the demo uses, too.

These are a PostgreSQL and stand-ins for the services of the platform.
"""
