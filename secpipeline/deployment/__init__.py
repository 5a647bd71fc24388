"""From a verified release to bytes that answer requests."""
