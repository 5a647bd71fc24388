"""The chain: one table, one short module a stage."""
