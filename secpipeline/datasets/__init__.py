"""Annotated images: deliveries, safe decoding, synthetic street scenes, immutable releases, splits."""
