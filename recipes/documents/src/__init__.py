"""The package of the document on directors and generators."""
