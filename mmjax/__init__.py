"""mmjax: pretrain models that read text, images and audio together, in JAX and Flax."""

__version__ = "0.1.0"
