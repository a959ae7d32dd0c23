"""`python -m agentfly.utils.deploy`: see `agentfly.serving.deploy`."""

from __future__ import annotations

from agentfly.serving.deploy import main

if __name__ == "__main__":
    main()
