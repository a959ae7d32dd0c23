"""Detectors with weights, masks of what they found, and drawings of it."""
