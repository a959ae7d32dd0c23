"""The refinement loop as a recipe: `python -m recipes.refinement_loop "prompt"` is `agentfly generate "prompt"`."""
