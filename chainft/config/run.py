"""All settings of a run: frozen dataclasses, and every default of chainft, once.

The string under a field is its documentation: `chainft config show` prints it. Tasks and data sources
extend `TaskConfig` and `DataConfig` in their own files. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from chainft.config.chain import ChainConfig
from chainft.config.launch import LaunchConfig
from chainft.config.ranges import (
    Count,
    CountOrZero,
    Fraction,
    FractionBelowOne,
    Limits,
    NotNegative,
    Positive,
    Seed,
)

Interval = (
    Literal["epoch"] | Annotated[int, Limits(low=1)] | Annotated[float, Limits(0, 1, open_low=True, open_high=True)]
)
"""`epoch`, a number of steps (whole number), or a fraction of the whole training (between 0 and 1)."""

Files = str | tuple[str, ...] | None
"""One path, several, or none. `pkg://package/file` names a file inside an installed package."""


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """What is learned. Each task adds its own fields."""

    name: str
    """The task plug-in: one of chainft's or of an installed package; `chainft config show task` lists them."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where examples come from and how they become train, validation and test. Each source adds its own fields."""

    name: str
    """The data source plug-in: one of chainft's or of an installed package; `chainft config show data` lists them."""
    train: Files = None
    """File or files of training examples (for `hub`: the split's name)."""
    validation: Files = None
    """File or files of validation examples; without them, `validation_fraction` is cut from train."""
    test: Files = None
    """File or files of test examples; without them, `test_fraction` is cut from train."""
    columns: Mapping[str, str | int] = field(default_factory=dict)
    """Which column holds what the task needs, by name or number, for example `{text: sentence, label: intent}`."""
    validation_fraction: FractionBelowOne = 0.1
    """Share of train that becomes validation when no validation file is given (0: no validation)."""
    test_fraction: FractionBelowOne = 0.0
    """Share of train that becomes test when no test file is given (0: no test)."""
    split_seed: Seed = 42
    """Seed of that cut; apart from `seed`, so that a sweep over seeds keeps its splits."""
    stratified: bool = True
    """Keep the share of each class in the cut, where the task has one class per example."""
    max_train_samples: Count | None = None
    """Use at most this many training examples, drawn with `split_seed`."""
    max_validation_samples: Count | None = None
    """Use at most this many validation examples, drawn with `split_seed`."""
    max_test_samples: Count | None = None
    """Use at most this many test examples, drawn with `split_seed`."""
    label_separator: str | None = None
    """What separates several labels in one text cell (multi-label tasks); null: a cell is one label."""
    encoding: str = "utf-8"
    """Text encoding of the files; a byte-order mark is recognised and dropped."""
    on_error: Literal["stop", "skip"] = "stop"
    """What a malformed row does: stop the run, or be left out and written to `rejected.jsonl`."""
    max_bad_fraction: Fraction = 0.01
    """With `on_error: skip`, the share of malformed rows at which the run stops all the same."""
    unseen_labels: Literal["error", "allow"] = "error"
    """What a label does that only validation or test has: stop, or join the label set though never learned."""
    cache_dir: str | None = None
    """Folder of the tokenised store and the prefix cache; default `$CHAINFT_CACHE`, else `~/.cache/chainft`."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The pretrained model that is fine-tuned."""

    path: str = "starter"
    """Folder, Hugging Face hub name, or the short name of weights in an installed package (starter, smollm2)."""
    revision: str | None = None
    """Branch, tag or commit of a hub name."""
    tokenizer: str | None = None
    """Folder or hub name of another tokenizer than the model's own."""
    pretrained: bool = True
    """Load the weights; `false` starts from random ones of the same architecture."""
    head: Literal["auto", "new"] = "auto"
    """auto: keep a head that the weights bring if its labels are those of the data, refuse another; new: start anew."""
    max_length: Count | None = None
    """Most tokens in one sequence; default: the model's own limit, at most 512."""


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """What turns hidden states into scores: the model's own last layer, or a plug-in. Each adds its own fields."""

    name: str | None = None
    """The head plug-in, in the place of the last layer of the model's own head; null: that layer."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizer, by the name torch gives it (case ignored), or `lion`."""

    name: str = "adamw"
    """adamw, sgd, adafactor, rmsprop, lion, or any other optimizer of `torch.optim` that needs no closure."""
    lr: Positive = 5e-5
    """Peak learning rate."""
    weight_decay: NotNegative = 0.01
    """Decay of weight matrices; norms, biases and other vectors are never decayed. Decoupled from the gradient where
    torch offers it (adamw, adam, nadam, radam, lion); sgd, rmsprop, adagrad, adadelta, adamax and asgd add it to it."""
    options: Mapping[str, bool | int | float | tuple[float, ...]] = field(default_factory=dict)
    """Further arguments of that optimizer, for example `{betas: [0.9, 0.98], eps: 1e-6}` or `{momentum: 0.9}`."""


@dataclass(frozen=True, kw_only=True)
class SchedulerConfig:
    """How the learning rate moves: warm-up from zero, then by `name`."""

    name: Literal["linear", "cosine", "polynomial", "constant", "inverse_sqrt", "warmup_stable_decay"] = "linear"
    """The form of the curve after warm-up."""
    warmup_steps: CountOrZero | None = None
    """Steps of linear warm-up; excludes `warmup_fraction`."""
    warmup_fraction: FractionBelowOne | None = None
    """Share of all steps that warm up; default 0.1 where `warmup_steps` is not given."""
    min_lr_fraction: FractionBelowOne | None = None
    """The end of the curve as a share of the peak (linear, cosine, polynomial, warmup_stable_decay); default 0."""
    power: Positive | None = None
    """Exponent of polynomial decay; default 2."""
    decay_fraction: Fraction | None = None
    """Share of all steps in the final decay of warmup_stable_decay; default 0.1."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The training loop."""

    num_train_epochs: Positive = 3.0
    """Passes over the training examples; a fraction is allowed."""
    max_steps: Count | None = None
    """Stop after this many optimizer updates, whatever `num_train_epochs` says."""
    batch_size: Count = 32
    """Examples per optimizer update, over all devices: the effective batch."""
    micro_batch_size: Count | None = None
    """Most examples in one forward pass; default `batch_size`. Changes speed and memory, not the result."""
    micro_batch_tokens: Count | None = None
    """Most tokens, padding included, in one forward pass; changes speed and memory, not the result."""
    padding_free: Literal["auto"] | bool = "auto"
    """Run the texts of a batch end to end instead of padded to the longest, and the last block for those tokens alone
    whose output is read; the result is the same up to rounding and the draws of dropout. auto: on the CPU, and on a GPU
    in 16 bits, where the model's attention allows it."""
    max_grad_norm: Positive | None = 1.0
    """Clip the gradient to this norm; null: do not clip."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Arithmetic of the forward pass: float32, or automatic bfloat16 or float16."""
    hidden_dtype: Literal["float32", "bfloat16"] = "float32"
    """With mixed_precision=bf16: the type of hidden states between layers. bfloat16 halves what is read and written, and
    rounds each layer's output; weights, norms inside, loss and optimizer stay in float32."""
    compile: Literal["auto"] | bool = "auto"
    """Compile the model's blocks (torch.compile): fewer and larger kernels. auto: on a GPU, where the training is long
    enough to win back the minute that it takes."""
    cuda_graphs: Literal["auto"] | bool = "auto"
    """Record the passes of the blocks for each size of a batch and let the GPU play them, which spares the host the start of
    every kernel. auto: on a GPU, where one process trains and batches run without padding in 16 bits, and of batches so
    small that the host takes longer than the GPU; true: of all."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto: the accelerator if there is one."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    logging_steps: Count = 10
    """Show a line of progress every so many steps; `metrics.jsonl` has every step."""
    max_nonfinite_steps: CountOrZero = 0
    """How many steps in a row with a loss or gradient that is not finite are left out before the run stops."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """When and how validation and test examples are scored."""

    every: Interval = "epoch"
    """How often to evaluate on validation: epoch, a number of steps, or a fraction of the training."""
    batch_size: Count = 64
    """Examples in one forward pass of evaluation and prediction."""
    metric: str | None = None
    """Metric that chooses the best checkpoint; default: the task's main metric."""
    greater_is_better: bool | None = None
    """Direction of that metric; default: known from the metric (a loss falls, a score rises)."""
    patience: Count | None = None
    """Stop early after this many evaluations in a row without improvement."""
    min_delta: NotNegative = 0.0
    """How much better than when it began to wait must an evaluation be, so that `patience` begins anew."""
    before_training: bool = True
    """Score the test examples before the first step too, so that the report shows before and after."""
    baselines: bool = True
    """Score the task's simple baselines (majority, copy, ...) on the test examples too, to compare with."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """What is saved while training."""

    every: Interval | Literal["evaluation"] = "evaluation"
    """How often to save: at each evaluation, or epoch, a number of steps, or a fraction of the training."""
    max_checkpoints: Count = 2
    """Keep this many; the best and the last are never removed."""
    asynchronous: bool = False
    """Training goes on while a checkpoint is written, from a copy in the CPU's memory: weights and optimizer state once
    more, of several processes each its part."""


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """The prefix cache: outputs of frozen leading stages, computed once and kept on disk (in `data.cache_dir`)."""

    prefix: Literal["auto"] | bool = "auto"
    """auto: where it changes no number, training passes over the data more than once (or the outputs are there
    already), and the disk has room; true: required, the run is refused where it cannot be; false: never."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type in which they are kept. float32 is exact; 16 bits take half the room and round."""
    max_gib: Positive = 20.0
    """Most GiB on disk for the outputs of one run."""


@dataclass(frozen=True, kw_only=True)
class TrackerConfig:
    """Where metrics go besides the run folder."""

    name: Literal["none", "tensorboard", "wandb", "mlflow", "trackio"] = "none"
    """The experiment tracker; its package must be installed (`pip install chainft[track]`)."""
    project: str = "chainft"
    """Project or experiment name in the tracker."""


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """The page `report.html` of a run."""

    enabled: bool = True
    """Write the page after training."""
    max_mistakes: CountOrZero = 50
    """How many of the worst mistakes it shows."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run."""

    task: TaskConfig
    data: DataConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    chain: ChainConfig = field(default_factory=ChainConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    seed: Seed = 42
    """Seed of everything random: new weights, order of examples, dropout."""
    run: str | None = None
    """Run folder; default `<runs_dir>/<date>_<time>_<task>`."""
    runs_dir: str = "runs"
    """Folder in which run folders are made."""
    resume: bool = False
    """Go on with the run folder `run` from its last whole checkpoint."""
    allow_change: tuple[str, ...] = ()
    """Keys that may differ from the run that is resumed though they change its numbers."""
    allow_data_change: bool = False
    """Resume even though the data files changed since the checkpoint."""
