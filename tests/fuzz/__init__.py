"""Hostile inputs, for the short fuzz tests of the suite and for long fuzz runs."""
