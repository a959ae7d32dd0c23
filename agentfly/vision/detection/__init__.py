"""Detectors with weights, and masks and drawings of their detections."""
