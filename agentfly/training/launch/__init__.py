"""Start, watch, resume and clean up the processes of a training run."""
