"""What a study compares: its stages and arms, and which of the earlier stages each of them starts from."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from weighted_mtp.decoding.config import EngineName, SampledDtype, SamplingConfig, ServerConfig
from weighted_mtp.sandbox.packages import installed
from weighted_mtp.section import Names, Section, leaves

Pipeline = Literal["ref_tuning", "critic", "baseline", "verifiable", "rho1", "third_party"]

DATASETS_NAME = "datasets"
"""`${datasets}` in an option is the folder of all datasets."""
_NAMES = re.compile(r"\$\{([^{}:]*)\}")
"""What OmegaConf replaces by the value of a name; with a colon it would be a function, as `${oc.env:HOME}`."""


class Training(Section):
    """One training run."""

    pipeline: Pipeline
    config: Path
    """Its YAML file, relative to the study's, or the name of one that comes with the package."""
    override: dict[str, Any] = {}  # noqa: RUF012  # pydantic copies it
    """Its options beside those of that file, nested as there; in a value, `${name}` is what the stage of that name
    made, `${datasets}` the folder of all datasets."""


class Compared(Section):
    """What arms have in common."""

    against: str | None = None
    """Another arm that it is compared to, beside the first (its own control)."""


class TrainedArm(Training, Compared):
    """A training run that is evaluated and compared."""


class _Sampled(Section):
    """A policy that is sampled as it is."""

    checkpoint: str | None = None
    """`${name}` of an earlier stage, or whatever `wmtp evaluate` takes."""
    server: ServerConfig | None = None
    """Or a server that has it: `{base_url: http://127.0.0.1:8000/v1}`."""

    @model_validator(mode="after")
    def _one_origin(self) -> "_Sampled":
        if (self.checkpoint is None) == (self.server is None):
            raise ValueError("give either checkpoint (a model to sample from) or server (one that has a model)")
        return self


class EvaluatedArm(_Sampled, Compared):
    """A policy that is evaluated as it is and compared: an earlier stage's (an implicit critic is a policy, too)."""

    pipeline: Literal["evaluation"]


Arm = Annotated[TrainedArm | EvaluatedArm, Field(discriminator="pipeline")]


class TrainingStage(Training):
    """A training run that others start from; `${name}` is its folder."""

    per_seed: bool = False
    """Run once per seed, in `name-seed-N`. What starts from it uses the run of its own seed, or of the first."""


class OwnPrograms(_Sampled):
    """A policy's own programs for training and validation problems, executed, as a dataset; `${name}` is its name.

    A later step learns from it with `data: {dataset: "${name}"}`: a critic from pairs, a policy from what passed.
    """

    pipeline: Literal["own_programs"]
    benchmark: str | None = None
    """Whose problems; null for the study's."""
    first: int | None = Field(None, ge=1)
    """Only the first N problems of each split."""
    n_samples: int = Field(8, ge=1)
    """Programs of each problem; what else there is to sampling is the study's."""
    temperature: float = Field(1.0, gt=0)
    """Temperature of the sampling."""
    seed: int | None = Field(None, ge=0)
    """Seed of the sampling; null for the seed that the stage runs with."""
    keep_solutions: bool = False
    """Whether the benchmark's own correct and incorrect programs are in the dataset, too."""
    per_seed: bool = False
    """As of a training run; the dataset's name then ends in the seed."""


Stage = Annotated[TrainingStage | OwnPrograms, Field(discriminator="pipeline")]
StepConfig = Stage | Arm


class StudyConfig(Section):
    """What is compared."""

    interpolated: ClassVar[bool] = False  # what a name stands for depends on a step's seed: `Step` fills it in

    name: str
    """Name of the study, and of its folder."""
    storage: Path = Path("storage")
    """Folder for datasets, runs and evaluations."""
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field((0,), min_length=1)
    """Every arm runs once per seed; stages run with the first, or once per seed."""
    override: dict[str, Any] = {}  # noqa: RUF012
    """Options of all training runs, over their own."""
    stages: dict[str, Stage] = {}  # noqa: RUF012
    """What the arms start from, in this order; `${name}` in an option is what an earlier stage made."""
    arms: dict[str, Arm]
    """What is compared; the first is the baseline of every difference."""
    benchmark: str = "micro"
    """What the arms are evaluated on."""
    split: str = "test"
    """Split of the benchmark."""
    first: int | None = Field(None, ge=1)
    """Only the first N problems."""
    sampling: SamplingConfig = SamplingConfig()
    """How the arms are sampled."""
    engine: EngineName = "torch"
    """What draws from checkpoints: this process with torch, the reference, or vLLM."""
    vllm_args: Names = ()
    """Arguments of vLLM's engine by its own names, as `[gpu_memory_utilization=0.5]`."""
    dtype: SampledDtype | None = None
    """Precision of checkpoints that are sampled. Default: bfloat16 on a GPU, else float32."""
    packages: tuple[str, ...] = ()
    """What programs may import beside the standard library, in arms' evaluations and in `own_programs`."""
    further_temperatures: tuple[Annotated[float, Field(ge=0)], ...] = ()
    """Arms are evaluated at these, too, and compared in a table each."""
    k: tuple[Annotated[int, Field(ge=1)], ...] = Field((1,), min_length=1)
    """k of pass@k, one table each."""
    slurm: dict[str, Any] = {}  # noqa: RUF012
    """With `--scheduler slurm`: what a step requests, by the names of submitit's `SlurmExecutor` (`partition`)."""

    @model_validator(mode="after")
    def _names_are_told_apart(self) -> "StudyConfig":
        if both := sorted(self.stages.keys() & self.arms.keys()):
            raise ValueError(f"{both[0]} is the name of a stage and of an arm: rename one")
        if DATASETS_NAME in self.stages:
            raise ValueError(f"stages.{DATASETS_NAME}: that name is taken, for the folder of all datasets: rename it")
        if not self.arms:
            raise ValueError("arms: give at least one")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds={self.seeds}: one of them is there twice, and would be one run; leave it out")
        return self

    @property
    def samplings(self) -> dict[float, SamplingConfig]:
        """How arms are sampled, by temperature; the study's own comes first. A further temperature of 0 draws one
        sample of each problem, since all would be equal. Raises ValueError if that cannot be."""
        own = self.sampling.model_dump()
        further = {
            t: {**own, "temperature": t, **({"n_samples": 1, "top_p": 1.0} if t == 0 else {})}
            for t in self.further_temperatures
        }
        drawn = {self.sampling.temperature: own} | further
        return {t: SamplingConfig.model_validate(options) for t, options in drawn.items()}

    @model_validator(mode="after")
    def _vllm_is_there_for_its_arguments(self) -> "StudyConfig":
        if self.vllm_args and self.engine != "vllm":
            raise ValueError("vllm_args has no effect without engine: vllm; give that, too, or leave it out")
        return self

    @model_validator(mode="after")
    def _packages_are_there(self) -> "StudyConfig":
        installed(self.packages)
        return self

    @model_validator(mode="after")
    def _each_temperature_can_be(self) -> "StudyConfig":
        if len(self.samplings) <= len(self.further_temperatures):
            raise ValueError("further_temperatures: one of them is there twice, or is the sampling's own: leave it out")
        return self

    @model_validator(mode="after")
    def _enough_samples(self) -> "StudyConfig":
        if max(self.k) > self.sampling.n_samples:
            raise ValueError(
                f"k={self.k} needs sampling.n_samples={max(self.k)} or more, and it is {self.sampling.n_samples}"
            )
        return self

    @model_validator(mode="after")
    def _what_is_named_is_there(self) -> "StudyConfig":
        earlier = [DATASETS_NAME]
        for name in self.stages:
            self._check_references(name, earlier)
            earlier.append(name)
        for name, arm in self.arms.items():
            self._check_references(name, earlier)
            if arm.against is not None and (arm.against not in self.arms or arm.against == name):
                raise ValueError(f"arms.{name}.against={arm.against} is no other arm: give one of {[*self.arms]}")
        return self

    def _check_references(self, name: str, earlier: Sequence[str]) -> None:
        for option, reference in self.references(name):
            if reference not in earlier:
                raise ValueError(f"{option}: ${{{reference}}} is no stage before it; there are: {', '.join(earlier)}")

    def references(self, name: str) -> Iterator[tuple[str, str]]:
        """(option, what it names) of every `${…}` in the options of the stage or arm `name`."""
        kind = "stages" if name in self.stages else "arms"
        step: StepConfig = getattr(self, kind)[name]
        options: dict[str, Any] = {kind: {name: step.model_dump(include={"override", "checkpoint"})}}
        if isinstance(step, Training):
            options["override"] = self.override
        for option, value in leaves(options):
            yield from ((option, named) for named in _NAMES.findall(str(value)))
