"""`python -m agentic_image_gen "prompt"` is `agentfly generate "prompt"`."""

from agentic_image_gen.cli import main

if __name__ == "__main__":
    main()
