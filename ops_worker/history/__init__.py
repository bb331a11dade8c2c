"""Turn recorded rows into typed documents and screens for people. Pure, like ``core``."""
