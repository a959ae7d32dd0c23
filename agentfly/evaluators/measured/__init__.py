"""Evaluators that measure an edit: against a known answer, by structure, by embedding, or with a detector."""
