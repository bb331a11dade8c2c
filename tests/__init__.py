"""The tests, and what they and the demo share: a PostgreSQL, stand-ins for the platform's services."""
