"""Train a policy with verl: recipes, launches, verl's plug-ins, metrics, supervised training, the quickstart."""
