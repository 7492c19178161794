"""A checkpoint as a model in MLflow, which its Models tab compares with others by settings, lineage and scores.

Only words and numbers go there: the weights stay in the store, where `alma.key` finds them.
"""

import re
from typing import Any

from alma_pipeline.tracking.server import Server

FORBIDDEN = re.compile(r"[/:.%\"']")
"""In a model's name, says MLflow."""
LINEAGE = ("alma.node", "alma.key", "alma.parent_key", "alma.input.")


def logged_model(server: Server, run_id: str, again: bool) -> str:
    """The id of the model that a run made, with the run's parameters. `again`: an earlier try may have made it.

    Raises what MLflow raises, as a server before version 3 does, which knows no such models.
    """
    from mlflow.entities import LoggedModelOutput

    client = server.client
    if again and (found := client.search_logged_models([server.experiment], f"source_run_id = '{run_id}'", max_results=1)):
        return str(found[0].model_id)
    run: Any = client.get_run(run_id)
    tags = {key: value for key, value in run.data.tags.items() if key.startswith(LINEAGE)}
    name, kind = FORBIDDEN.sub("_", run.info.run_name), run.data.tags["alma.stage"]
    model = client.create_logged_model(server.experiment, name, run_id, tags, run.data.params, kind)
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return str(model.model_id)
