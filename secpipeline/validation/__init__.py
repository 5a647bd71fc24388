"""Great Expectations suites over the annotation tables, run so that nothing is skipped silently."""
