"""Hostile inputs, for the tests of the suite and for `scripts/fuzz.py`. Equal random sources give equal inputs.

To add a family, add a function of a random source (or a unit, a form) to a list: `texts` has what models write and the
values that JSON may carry, `images` has files and sources of images, `exchanges` has requests, replies and rows.
"""
