"""Export a run: the pages of the viewer as one file, or as a folder. Both open from a disk, without a server.

From the ground up:

    choose     the chains, where there are too many
    subset     a run that has only these
    scripts    the modules of the pages as one script
    assets     addresses, and the images that have to come along
    site       the pages
    single     writes them as one file
    folder     writes them as a folder
    run        `agentfly view RUN --export PATH`
"""
