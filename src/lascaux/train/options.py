"""How a training is run, apart from what is trained: options that import nothing heavy."""

from dataclasses import dataclass, field
from typing import Any, Literal

from lascaux.errors import BadInput

Compression = Literal["none", "float16", "bfloat16"]


def setting(default: Any, help: str, **metadata: Any) -> Any:
    """A field of a recipe or of these options, with what the command line says of its flag."""
    return field(default=default, metadata={"help": help, **metadata})


@dataclass(frozen=True, kw_only=True)
class Running:
    """How a training is run; none of this is part of what is learnt.

    Another number of threads or processes, sharding, compression or compilation changes the order
    or the width of sums, and so the last bits; a run that goes on with others says so.

    Raises:
        BadInput: a count out of its range.
    """

    device: str = setting("auto", "cpu, cuda, cuda:1, mps; auto takes what there is")
    threads: int | None = setting(None, "threads of torch; if not given, torch chooses")
    workers: int = setting(1, "processes that make batches, beside each that trains")
    save_every: float = setting(120.0, "seconds from one checkpoint to the next")
    keep: int = setting(2, "latest checkpoints that are kept, besides the best")
    validate_every: int = setting(1000, "steps from one validation to the next")
    sample_every: int = setting(0, "steps from one sheet of samples to the next; 0: none")
    log_every: int = setting(10, "steps from one line of metrics.jsonl to the next")
    tensorboard: bool = setting(False, "write the metrics for TensorBoard as well")
    recompute: bool = setting(
        False, "gradient checkpointing: keep less of each block and compute it again"
    )
    compile: bool = setting(False, "compile the blocks with torch.compile")
    shard: bool = setting(
        False, "share weights, gradients and optimiser among processes (FSDP) instead of copies"
    )
    compress: Compression = setting("none", "number format in which processes exchange gradients")

    def __post_init__(self) -> None:
        least = {
            "workers": 0,
            "save_every": 0,
            "keep": 1,
            "validate_every": 1,
            "sample_every": 0,
            "log_every": 1,
        }
        for name, low in least.items():
            if not getattr(self, name) >= low:
                flag = name.replace("_", "-")
                raise BadInput(f"--{flag} is {getattr(self, name)}; it must be at least {low}")
        if self.threads is not None and self.threads < 1:
            raise BadInput(f"--threads is {self.threads}; it must be at least 1")
