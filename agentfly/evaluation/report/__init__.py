"""The figures of a run: its summary, the tables in Markdown, and the gallery."""
