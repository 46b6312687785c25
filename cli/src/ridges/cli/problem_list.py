"""``ridges problem list``: what is published, and which folders cannot be."""

from collections.abc import Sequence

import msgspec

from ridges.cli import render
from ridges.cli.errors import CliError
from ridges.cli.evaluator_client import Broken, problem_folders
from ridges.cli.system import any_system, evaluator_url, say
from ridges.cli.terminal_text import printable
from ridges.contracts.views import ProblemRow


def list_problems(as_json: bool) -> None:
    """Prints both. A folder that broke after it was published is listed twice: its published edition can still run."""
    with any_system() as client:
        broken = _broken()  # first: it publishes what is new in the folders
        problems = client.problems()
    if as_json:
        render.json_document([*(_published(row) for row in problems), *(_unusable(folder) for folder in broken)])
    else:
        render.problems_table(problems)
        for folder in broken:
            say(printable(f"{folder.problem_id} cannot be used: {'; '.join(folder.reasons)} ({folder.folder})"))


def _broken() -> Sequence[Broken]:
    url = evaluator_url()
    try:
        return problem_folders(url).broken if url else ()
    except CliError as error:
        say(f"problem folders are not shown: {error}")
        return ()


def _published(row: ProblemRow) -> dict[str, object]:
    return msgspec.structs.asdict(row) | {"state": "published", "reasons": ()}


def _unusable(folder: Broken) -> dict[str, object]:
    nothing = dict.fromkeys(("kind", "title", "problem_digest", "agent_timeout_s", "evaluation_timeout_s"))
    return {"problem_id": folder.problem_id, **nothing, "state": "broken", "reasons": folder.reasons}
