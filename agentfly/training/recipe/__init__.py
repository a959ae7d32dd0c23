"""A training run as data: its settings, its configuration for verl, its checks, its plan and its rows."""
