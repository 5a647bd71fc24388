"""Annotated images: reading deliveries, safe decoding, synthetic street scenes, immutable releases, splits."""
