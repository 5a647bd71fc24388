"""Detectors: models, training, inference, metrics, export."""
