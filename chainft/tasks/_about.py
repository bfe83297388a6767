"""What a task says of itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class About:
    """A task in words: for the report, the model card, and the commands that are shown after a run."""

    title: str | None = None
    """What is done, for the head of the report: `Named entity recognition`; default: the name of the task."""
    purpose: str | None = None
    """Completes `This model ...`: `finds named entities in text`."""
    sample: str = "Your text here."
    """An input to try the model on, as `chainft predict` takes it."""
    pipeline: str | None = None
    """The pipeline of transformers that runs the saved model: `token-classification`; None: there is none."""
    hub_tag: str | None = None
    """Kind of task that the Hugging Face hub lists such models under, where it is not `pipeline`: `translation`."""
    answers_labels: bool = True
    """Whether the labels, where there are any, are what it answers; False: they are names in what it is given."""
    limit: str | None = None
    """A sentence on what such a model gets wrong, for the model card."""
