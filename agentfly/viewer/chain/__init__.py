"""One chain as its page shows it: plain data made from a trajectory line, without a server.

words         long texts that are cut, and control characters that are made visible
view          task, turns, calls, observations
scores        scores of evaluators and of an audit
setup         the few settings of the run that a chain's page needs
vocabulary    token ids to text
tokens        the token stream of a chain, with images at their places
sight         the resolution at which the policy was shown an image
credit        advantages of group estimators, from the rewards of the group and its turns
rerun         recorded calls, run again
"""
