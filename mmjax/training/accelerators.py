"""Speeds and sizes of accelerators from the vendors' data sheets, by jax's device_kind."""

import dataclasses

from mmjax.errors import InputError, excerpt

GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accelerator:
    """One GPU or TPU chip. Bandwidths are in bytes a second; those of links and network count sent bytes."""

    flops: float  # dense bf16 FLOP/s
    hbm_bytes: int
    hbm_bandwidth: float
    link_bandwidth: float  # to devices of the same node
    network_bandwidth: float  # to devices of other nodes
    node_size: int  # devices of a node


# GPUs: NVLink's 600 and 900 GB/s count both directions; each GPU has a network card of 200 Gb/s (DGX A100) or
# 400 Gb/s (DGX H100, H200). TPUs: a mesh axis lies along one dimension of the torus, whose 400 GB/s (v5e, 2
# dimensions) or 1200 GB/s (v5p, 3 dimensions) count both directions of all dimensions. A TPU's node is its
# pod; the network between pods has 6.4 Tb/s for 256 chips (v5e) or 50 Gb/s for each chip (v5p).
ACCELERATORS = {
    "NVIDIA A100-SXM4-40GB": Accelerator(
        flops=312e12, hbm_bytes=40 * GIB, hbm_bandwidth=1555e9, link_bandwidth=300e9, network_bandwidth=25e9,
        node_size=8,
    ),
    "NVIDIA A100-SXM4-80GB": Accelerator(
        flops=312e12, hbm_bytes=80 * GIB, hbm_bandwidth=2039e9, link_bandwidth=300e9, network_bandwidth=25e9,
        node_size=8,
    ),
    "NVIDIA H100 80GB HBM3": Accelerator(
        flops=989e12, hbm_bytes=80 * GIB, hbm_bandwidth=3350e9, link_bandwidth=450e9, network_bandwidth=50e9,
        node_size=8,
    ),
    "NVIDIA H200": Accelerator(
        flops=989e12, hbm_bytes=140 * GIB, hbm_bandwidth=4800e9, link_bandwidth=450e9, network_bandwidth=50e9,
        node_size=8,
    ),
    "TPU v5 lite": Accelerator(
        flops=197e12, hbm_bytes=16 * GIB, hbm_bandwidth=819e9, link_bandwidth=100e9, network_bandwidth=3.1e9,
        node_size=256,
    ),
    "TPU v5": Accelerator(  # v5p
        flops=459e12, hbm_bytes=95 * GIB, hbm_bandwidth=2765e9, link_bandwidth=200e9,
        network_bandwidth=6.25e9, node_size=8960,
    ),
}  # fmt: skip
SHORT_NAMES = {
    "a100": "NVIDIA A100-SXM4-40GB",  # the smaller of the two
    "a100-40gb": "NVIDIA A100-SXM4-40GB",
    "a100-80gb": "NVIDIA A100-SXM4-80GB",
    "h100": "NVIDIA H100 80GB HBM3",
    "h200": "NVIDIA H200",
    "v5e": "TPU v5 lite",
    "v5p": "TPU v5",
}


def find_accelerator(name: str) -> str:
    """The key of ACCELERATORS that a name means, in any case and also without the vendor's.

    Raises:
      InputError: no data sheet has this name.

    >>> find_accelerator("A100"), find_accelerator("nvidia h200"), find_accelerator("TPU v5e")
    ('NVIDIA A100-SXM4-40GB', 'NVIDIA H200', 'TPU v5 lite')
    """
    names = {full.lower(): full for full in ACCELERATORS} | SHORT_NAMES
    wanted = name.strip().lower()
    short = wanted.removeprefix("nvidia").removeprefix("tpu").strip(" -").replace(" ", "-")
    for key in (wanted, short):
        if key in names:
            return names[key]
    raise InputError(
        f"expected a device among {sorted(ACCELERATORS)}, or in short {sorted(SHORT_NAMES)}, found "
        f"{excerpt(name)}"
    )
