"""Two runs, or two parts of one, on the same tasks.

sides    what is compared: a part of a run, at a step
tasks    the tasks that both have, with their difference, and those that one alone has
"""
