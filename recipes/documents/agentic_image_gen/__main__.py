"""`python -m agentic_image_gen "prompt"` is `agentfly generate "prompt"`."""

from .cli import main

if __name__ == "__main__":
    main()
