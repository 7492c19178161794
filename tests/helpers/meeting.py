"""Two ranks that meet: torchrun --nproc-per-node 2 -m helpers.meeting. Each prints the ranks that it met."""

from alma_pipeline.ml.distributed import all_gather, init_process_group
from alma_pipeline.schema import Hardware

if __name__ == "__main__":
    world = init_process_group(Hardware(name="test", launcher="torchrun", devices=2, threads=1))
    print("met:" + ",".join(map(str, all_gather(world.rank))), flush=True)
