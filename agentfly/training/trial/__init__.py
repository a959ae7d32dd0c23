"""`agentfly try`: a few tasks of a recipe through the loop, the reward and the metrics of training, without verl."""
