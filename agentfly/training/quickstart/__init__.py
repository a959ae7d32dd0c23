"""The quickstart: a tiny policy from a warm start to reinforcement, evaluated before and after, with a report."""
