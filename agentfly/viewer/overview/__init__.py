"""What the overview of a run says: did it learn, at which tasks, what does a failure look like, and what is wrong.

cells      sums over the chains of a run by step, type, stop reason and tools, from one look at the index
gains      rewards and scores before and after, with intervals
curves     charts of the steps, in sections
troubles   what is wrong, each with the chains that show it
examples   the worst and the best chains, to look at
figures    tables of evaluations, quickstarts and trials
"""
