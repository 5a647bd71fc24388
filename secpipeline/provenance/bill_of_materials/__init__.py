"""The bill of materials of one deployment: CycloneDX 1.6, made from verified evidence and from nothing else.

It names the detector with its model card, the raw and the curated release, every configuration that was read, the
packages that trained it, and how each came from the others. The specification is
https://cyclonedx.org/docs/1.6/json/ (ECMA-424). Whatever has bytes has the reference ``<artifact>@<12 hex digits of its
SHA-256>``, so that a bill can be held against evidence again (:func:`.checking.check`). Equal evidence gives equal
bytes, so that whoever holds the reports can also make the bill again and compare.

>>> facts = read(evidence, digests, links, Path("build/artifacts"))      # doctest: +SKIP
>>> bill = build(facts)                                                  # doctest: +SKIP
>>> check(bill, covered(evidence, digests, links))                       # doctest: +SKIP
[]
"""
