"""A preloaded parent: one process imports torch, verl and vLLM, and the processes of a run are its forks.

A run has about ten Python processes. Started one by one, each imports the same libraries for 4 to 12 seconds of
processor time, which is most of what a small run needs until its first step. `server` imports them once. `client` takes
the place of the interpreter in the commands that start those processes: it passes its arguments, environment, working
folder and open files to the server, which forks, and stays for as long as the fork lives. Where the server cannot help,
the client becomes the interpreter that it was called for.
"""
