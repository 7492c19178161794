"""torchrun, whose agents wait one second for one another at the end in place of 300: python -m helpers.impatient_agent WORDS"""

from functools import partial

from torch.distributed import run
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.launcher import api

if __name__ == "__main__":
    api.LocalElasticAgent = partial(LocalElasticAgent, exit_barrier_timeout=1.0)  # type: ignore[attr-defined,assignment]
    run.main()
