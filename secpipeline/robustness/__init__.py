"""Attacks, corruptions, the suite that measures a detector under them, and the gate that judges."""
