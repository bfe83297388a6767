"""Fine-tunes transformers as chains of stages, described by Hydra YAML configs."""

__version__ = "0.1.0"
