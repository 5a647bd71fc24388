"""Where a file came from, and what came from it, read from signed links alone.

Every run that was ever logged is a node, also those whose outputs are no longer the current ones. A run rests on the
one that was the last, before it was logged, to make the bytes it read under that name.

>>> history = read_history(EvidenceStore(Path("build/evidence")), trust, specs)      # doctest: +SKIP
>>> print(tree(upstream(history, makers(history, "1004ff18e902"))))                  # doctest: +SKIP
deploy 095aa7ce2956 2026-11-24T07:47:26Z
└─ release ...
"""
