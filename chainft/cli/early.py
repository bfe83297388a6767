"""What names and files alone show to be wrong with a training: told before torch is imported, in well under a second.

The training checks all of it again where it uses it; here it only comes early.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from chainft.config.joint import JointDataConfig
from chainft.config.launch_rules import check_heads
from chainft.config.run import DataConfig, RunConfig
from chainft.data.columns import check_settings
from chainft.data.example import SPLITS
from chainft.data.files import find_file
from chainft.data.joint import check_parts, named
from chainft.data.load import check_given
from chainft.metrics.base import check_metric
from chainft.models.stage_models import blaming, stage_models
from chainft.models.weights import locate
from chainft.registry import find
from chainft.run_folder import check_free

if TYPE_CHECKING:
    from chainft.data.sources.base import Source
    from chainft.tasks.base import Task


def check_early(config: RunConfig) -> None:
    """Run folder, task, metric, data files and model folder. Raises ChainftError."""
    if config.run is not None and not config.resume:
        check_free(Path(config.run))
    task: Task = find("task", config.task.name, key="task.name")(config.task)
    check_metric(config.evaluation.metric, task)
    check_heads(config, task.tasks)
    _check_data(config.data, task)
    for stage, model in stage_models(config).items():
        with blaming(stage, config.chain):
            locate(model)


def _check_data(data: DataConfig, task: Task) -> None:
    if not task.has_own_data or isinstance(data, JointDataConfig):
        for name, one in check_parts(data, task).items():
            with named(name):
                _check_data(one, task.tasks[name])
        return
    source: Source = find("source", data.name, key="data.name")(data)
    check_settings(task, data)
    check_given(data, trains=True)
    for split in SPLITS if source.reads_files else ():
        files = getattr(data, split)
        for file in (files,) if isinstance(files, str) else files or ():
            find_file(source.file_of(file), key=source.key_of(file))
