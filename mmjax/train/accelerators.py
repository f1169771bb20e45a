"""What the vendors' data sheets say of a few accelerators; by jax's device_kind."""

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accelerator:
    """One device: a GPU, a TPU chip. Bandwidths in bytes a second; networks count what a device sends."""

    flops: float  # dense bf16, a second
    hbm_bytes: int
    hbm_bandwidth: float
    link_bandwidth: float  # to devices of the same node
    network_bandwidth: float  # to those of others
    node_size: int  # devices that the links join


# NVLink counts both directions in its 600 and 900 GB/s. Between nodes: a network card of 200 Gb/s (DGX A100)
# or 400 Gb/s (DGX H100, H200) for each GPU. Of a TPU's torus (v5e: 400 GB/s in 2 dimensions, v5p: 1200 GB/s
# in 3, both directions) the links of one dimension, along which a mesh axis lies; its node is the pod, and
# between pods there are 6.4 Tb/s for 256 chips (v5e) or 50 Gb/s for each (v5p).
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
