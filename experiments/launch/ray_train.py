"""mmjax under Ray Train's JaxTrainer (`pip install mmjax[ray]`); see docs/launch.md.

    python experiments/launch/ray_train.py --workers 4 --gpus 8 \
        my_experiment.py mesh.fsdp=-1 --run-dir /shared/runs/mine

Joins the Ray cluster of RAY_ADDRESS, or starts one on this machine. If a worker dies, Ray restarts all
workers, and the run resumes from its newest checkpoint.
"""

import argparse
import os
import socket
import sys

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.jax import JaxTrainer


def train(config: dict) -> int:
    """Runs in every worker. Returns the exit code of `mmjax train`."""
    import jax
    import ray.train.collective

    from mmjax.cli.main import main

    context = ray.train.get_context()
    if not jax.distributed.is_initialized():  # JaxTrainer initialises it for GPUs and TPUs only
        with socket.socket() as listener:
            listener.bind(("", 0))  # any free port
            address = f"{ray.util.get_node_ip_address()}:{listener.getsockname()[1]}"
        os.environ["JAX_COORDINATOR_ADDRESS"] = ray.train.collective.broadcast_from_rank_zero(address)
        os.environ["JAX_NUM_PROCESSES"] = str(context.get_world_size())
        os.environ["JAX_PROCESS_ID"] = str(context.get_world_rank())
    # Returned, not raised: after an exception Ray would restart the workers, which does not help bad input.
    return main(["train", *config["arguments"]])


def run() -> int:
    """Starts the workers. Returns the exit code of `mmjax train`."""
    parser = argparse.ArgumentParser(description="mmjax train under Ray Train")
    parser.add_argument("--workers", type=int, default=1, help="number of processes, usually one per node")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs per worker; 0: CPUs only")
    parser.add_argument("--cpus", type=int, default=1, help="CPUs per worker")
    parser.add_argument("--max-failures", type=int, default=3, help="how often to restart the workers")
    parser.add_argument(
        "--ray-results", default=os.path.expanduser("~/ray_results"), help="shared folder for Ray's own files"
    )
    options, arguments = parser.parse_known_args()  # `arguments` are those of `mmjax train`
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
