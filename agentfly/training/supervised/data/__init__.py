"""From trajectories and conversations to batches of examples for supervised training."""
