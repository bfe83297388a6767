"""Fine-tunes transformers as chains of stages, described by Hydra YAML configs."""

from chainft.auto_classes import register_when_imported

__version__ = "0.1.0"

register_when_imported()
