"""Groups of chains: those of one prompt, and those of one task at several steps.

listed   the list of groups with their means and spreads
task     the chains of a task, by part and step, with their advantages
"""
