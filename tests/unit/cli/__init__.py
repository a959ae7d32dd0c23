"""Tests of the commands as a whole."""
