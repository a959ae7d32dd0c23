"""Directors and generators: several personas write briefs and prompts, judge the images, and revise their prompts.

The modules: `settings` and `prompts` (what a person writes), `chat` and `replies` (asking models), `painters`, `remote`
and `local` (images), `run` (one run), `records` (what happened), `folder` (the run on disk), `studio` (the public
entry), `trajectory` and `task_agent` (the system as an agent in tables).
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
