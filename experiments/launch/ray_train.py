"""mmjax under Ray Train's JaxTrainer (`pip install mmjax[ray]`); docs/launch.md says more.

    python experiments/launch/ray_train.py --workers 4 --gpus 8 \
        my_experiment.py mesh.fsdp=-1 --run-dir /shared/runs/mine

Joins the Ray cluster that RAY_ADDRESS names, else starts one on this machine. A worker that dies brings its
group down; Ray starts the group again, and it goes on from the newest checkpoint.
"""

import argparse
import os
import socket
import sys

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.jax import JaxTrainer


def train(config: dict) -> int:
    """Runs in every worker; returns the exit code of `mmjax train`."""
    import jax
    import ray.train.collective

    from mmjax.cli.main import main

    context = ray.train.get_context()
    if not jax.distributed.is_initialized():  # JaxTrainer does it for GPUs and TPUs only
        with socket.socket() as free:
            free.bind(("", 0))
            here = f"{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"
        os.environ["JAX_COORDINATOR_ADDRESS"] = ray.train.collective.broadcast_from_rank_zero(here)
        os.environ["JAX_NUM_PROCESSES"] = str(context.get_world_size())
        os.environ["JAX_PROCESS_ID"] = str(context.get_world_rank())
    # A refusal would be refused again: it is returned, as what is raised is a failure to try anew.
    return main(["train", *config["arguments"]])


def run() -> int:
    """Starts the workers; returns the exit code of `mmjax train`."""
    parser = argparse.ArgumentParser(description="mmjax train under Ray Train")
    parser.add_argument("--workers", type=int, default=1, help="processes, one a node as a rule")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs of each; 0: CPUs only")
    parser.add_argument("--cpus", type=int, default=1, help="CPUs of each")
    parser.add_argument("--max-failures", type=int, default=3, help="how often the group is started again")
    parser.add_argument(
        "--ray-results", default=os.path.expanduser("~/ray_results"), help="Ray's own files, shared"
    )
    options, arguments = parser.parse_known_args()  # what is left is `mmjax train`'s
    ray.init(include_dashboard=False)
    trainer = JaxTrainer(
        train,
        train_loop_config={"arguments": arguments},
        scaling_config=ScalingConfig(
            num_workers=options.workers,
            use_gpu=options.gpus > 0,
            resources_per_worker={"CPU": options.cpus} | ({"GPU": options.gpus} if options.gpus else {}),
        ),
        run_config=RunConfig(
            storage_path=options.ray_results, failure_config=FailureConfig(max_failures=options.max_failures)
        ),
    )
    return trainer.fit().return_value


if __name__ == "__main__":
    sys.exit(run())
