"""Directors and generators: several personas write briefs and prompts, judge the images, and revise their prompts.

Modules: `settings` and `prompts` (the files that a person writes), `chat` (asking models and reading their replies),
`run` (one run), `records` (its record), `folder` (the run on disk), `studio` (the public entry), `task_agent` (the
system as an agent in tables). The images come from `agentfly.systems.generators`.
"""

from agentfly.systems.director_generator.folder import RunFolder, run_id
from agentfly.systems.director_generator.records import RunRecord
from agentfly.systems.director_generator.run import RecursionLimit, Request, Watcher
from agentfly.systems.director_generator.settings import Studio, SystemSettings, load_studio
from agentfly.systems.director_generator.studio import DirectorGenerator

__all__ = [
    "DirectorGenerator",
    "RecursionLimit",
    "Request",
    "RunFolder",
    "RunRecord",
    "Studio",
    "SystemSettings",
    "Watcher",
    "load_studio",
    "run_id",
]
