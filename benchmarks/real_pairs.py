"""How well critics tell correct from incorrect programs that nobody made up, on problems that they never saw.

    uv run python benchmarks/real_pairs.py --model MODEL --data ../shared/data --output storage/real_pairs
    … --sources codet_humaneval --objectives outcome,implicit --folds 0,1 --steps 60

Each source by itself, each objective with the model as backbone, by the package's own training loop; beside it what
needs no training: chance, lengths, and the model's own likelihood. `frozen` is no critic but a linear ranker of the
states that a critic's last layers would get (`frozen_states.py`). Of the backbone its last layers are trained; what
those before make of a program is computed once, for all objectives and folds, and kept in the output. One JSON record a
source, fold and ranker; what has one is not done again, so the same command goes on. At the end a table, with intervals
over problems.

    condefects          human programs, faulty and repaired; its validation and test problems are held out
    codecontests_pairs  human programs and the same with one synthetic edit: the easiest; held out likewise
    codet_humaneval     CodeGen-16B's programs for HumanEval, executed; five folds. Evaluation data: the critics of this
                        study judge nothing but each other, and their folders are not for training policies

Training pairs are those of a run: unique, some of each problem, balanced by length. Of the problems that are not held
out an eighth validates: it chooses the checkpoint. Held out are measured

    all       all pairs of a problem, up to --pairs-per-problem drawn at random
    balanced  those that a run would draw of them: lengths alone rank half of them right
    repairs   where programs are repaired: an author's own faulty and repaired program

Accuracies are means over problems. Programs with more than a source's `max_length` tokens, prompt included, are left
out on all sides alike; of what is left, the first few of each problem and verdict are used.
"""

import argparse
import json
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from frozen_states import frozen_scores
from length_balance import length_bias
from numpy.typing import NDArray
from pydantic import Field
from real_programs import MAX_TOKENS, PADDING, SEED, SOURCES, Fold, Pairs, Source, asked, make_fold
from torch import Tensor, nn
from transformers import PreTrainedModel

from weighted_mtp.data.batches import Batch, TokenStore
from weighted_mtp.data.index import read_index
from weighted_mtp.data.pairs import PairDataConfig, PairStore, load_pairs
from weighted_mtp.data.sampling import PairConfig, sample_pairs
from weighted_mtp.data.stream import BatchStream
from weighted_mtp.errors import UserError
from weighted_mtp.evaluation.pass_at_k import SampleCounts, estimate
from weighted_mtp.files import atomic_file
from weighted_mtp.losses.critic_loss import CriticObjective, ImplicitConfig, implicit_advantages, program_scores
from weighted_mtp.losses.critic_objective import ImplicitObjective, ValueObjective
from weighted_mtp.losses.objective import Objective
from weighted_mtp.losses.token_ce import next_token_cross_entropies
from weighted_mtp.models.checkpoint import checkpoints_in, load_tokenizer, step_of
from weighted_mtp.models.convert import convert, load_base, with_heads
from weighted_mtp.models.mtp import decoder_layers
from weighted_mtp.models.value import ValueModel
from weighted_mtp.pipelines.command import chosen, user_errors
from weighted_mtp.pipelines.fit import FitConfig, Parts, fit
from weighted_mtp.progress import console
from weighted_mtp.report.curves import read_metrics
from weighted_mtp.report.intervals import over_seeds_and_problems
from weighted_mtp.section import validated
from weighted_mtp.training.optim import Group

Scores = Mapping[str, float]
"""Program → what a ranker says of it; the greater, the better."""
Rankers = dict[str, dict[str, SampleCounts]]
"""Ranker → kind of pairs → problem → (halves there are, halves won): a tie is half a pair."""

UNTRAINED = "untrained"
LENGTH = "length"
FROZEN = "frozen"
OBJECTIVES = ("pairwise_ranking", "lambda_return", "outcome", "implicit", FROZEN)
CHECKS = 5  # validations of a run, and checkpoints to choose from


def won(pairs: Pairs, scores: Scores) -> SampleCounts:
    """Problem → (twice its pairs, twice those that the scores rank right); equal scores are half right."""
    return {
        problem: (2 * len(of), sum(1 + int(np.sign(scores[good] - scores[bad])) for good, bad in of))
        for problem, of in pairs.items()
    }


class Remembered(nn.Module):
    """A decoder's embeddings and first layers, frozen: token ids → states, each row computed once and kept in a file.

    Stands where the embeddings did, so that the layers which are left make a whole decoder of it. Rows are padded with
    `PADDING`, whose states are 0.
    """

    def __init__(self, decoder: nn.Module, file: Path) -> None:
        super().__init__()
        self._decoder = decoder
        self._width = decoder.config.hidden_size
        self._rows = sqlite3.connect(file)
        self._rows.execute("create table if not exists rows (ids blob primary key, states blob)")

    @torch.no_grad()
    def forward(self, input_ids: Tensor) -> Tensor:
        """(B, T) int64 → (B, T, D) fp32, of which the file keeps 16 bits."""
        rows = [row[row != PADDING].to(torch.int32).numpy().tobytes() for row in input_ids]
        missing = [i for i, ids in enumerate(rows) if self._kept(ids) is None]
        if missing:
            computed = self._decoder(input_ids=input_ids[missing].clamp(min=0), use_cache=False).last_hidden_state
            for i, states in zip(missing, computed, strict=True):
                kept = states[: len(rows[i]) // 4].to(torch.float16).numpy().tobytes()
                self._rows.execute("insert or ignore into rows values (?, ?)", (rows[i], kept))
            self._rows.commit()
        found = torch.zeros(*input_ids.shape, self._width)
        for i, ids in enumerate(rows):
            states = np.frombuffer(self._kept(ids) or b"", dtype=np.float16).reshape(-1, self._width)
            found[i, : len(states)] = torch.from_numpy(states.astype(np.float32))
        return found

    def _kept(self, ids: bytes) -> bytes | None:
        row = self._rows.execute("select states from rows where ids = ?", (ids,)).fetchone()
        return None if row is None else row[0]


def shallow(options: argparse.Namespace) -> PreTrainedModel:
    """The model with its last layers alone, which are trained; those before are `Remembered`."""
    model, _ = load_base(str(options.output / "model"), "float32")
    model.requires_grad_(False)
    decoder, layers = model.get_decoder(), decoder_layers(model)
    first, last = layers[: -options.last_layers], layers[-options.last_layers :]
    bottom = type(decoder)(decoder.config).requires_grad_(False).eval()
    bottom.embed_tokens, bottom.layers, bottom.norm = decoder.embed_tokens, first, nn.Identity()
    decoder.layers = last.requires_grad_(True)
    decoder.config.num_hidden_layers = options.last_layers
    decoder.embed_tokens = Remembered(bottom, options.output / f"layer-{len(first)}.db")
    return model


def untrained(source: Source, fold: Fold, options: argparse.Namespace) -> Rankers:
    """What needs no training: chance, lengths (their direction is learned), the model's own likelihood."""
    names = fold.store.sample_ids
    chance = dict(zip(names, np.random.default_rng(SEED).random(len(names)).tolist(), strict=True))
    index = read_index(fold.root / fold.dataset / "train")
    direction = (
        -1 if length_bias(index, sample_pairs(index, PairConfig(length_balanced=False), SEED)).shorter_is_right else 1
    )
    length = {name: direction * n for name, n in fold.lengths.items()}
    reference = with_heads(shallow(options), 1).eval()
    total = score_programs(lambda batch: -next_token_cross_entropies(reference, batch).sum(1), fold.store)
    mean = {name: total[name] / fold.lengths[name] for name in names}
    scores = {"chance": chance, LENGTH: length, "likelihood": total, "likelihood, per token": mean}
    return {name: {kind: won(pairs, s) for kind, pairs in fold.pairs.items()} for name, s in scores.items()}


def score_programs(ask: Callable[[Batch], Tensor], store: TokenStore) -> dict[str, float]:
    """One number a program, from a question that gives one a row of a batch."""
    return dict(zip(store.sample_ids, asked(ask, store, "ranking").tolist(), strict=True))


def frozen(fold: Fold, options: argparse.Namespace) -> tuple[Rankers, dict[str, Any]]:
    """A linear ranker of what the frozen layers say, and what was chosen for it."""
    states = shallow(options).get_decoder().embed_tokens
    scores, chosen = frozen_scores(states, fold, load_tokenizer(options.output / "model"))
    return {FROZEN: {kind: won(pairs, scores) for kind, pairs in fold.pairs.items()}}, {"chosen": chosen}


class CriticFit(FitConfig):
    """What decides a critic's run."""

    critic: CriticObjective = Field(discriminator="objective")


def fit_config(fold: Fold, objective: str, options: argparse.Namespace) -> CriticFit:
    """The run of one critic."""
    every = -(-options.steps // CHECKS)
    return validated(
        CriticFit,
        {
            "run": {"name": f"{fold.dataset}-{objective}", "root": options.output / "runs", "seed": SEED},
            "critic": {"objective": objective},
            "optim": {"lr": options.lr, "warmup_steps": options.steps // 10, "weight_decay": 0.01},
            "training": {
                "max_steps": options.steps,
                "validate_every": every,
                "save_every": every,
                "save_total_limit": CHECKS,
            },
            "runtime": {"threads": options.threads, "precision": "fp32"},
            "mlflow": {"enabled": False},
        },
    )


@dataclass(frozen=True)
class Learner:
    """A critic of some objective: what learns, by what, and what it then says, batch → (B, T)."""

    model: PreTrainedModel
    objective: Objective
    values: Callable[[Batch], Tensor]


def learner(critic: CriticObjective, options: argparse.Namespace) -> Learner:
    """As the package builds them, on the last layers."""
    base = shallow(options)
    if isinstance(critic, ImplicitConfig):
        model, reference = with_heads(base, 1), with_heads(shallow(options), 1).requires_grad_(False).eval()

        def log_probabilities(batch: Batch) -> Tensor:
            with torch.no_grad():
                return -next_token_cross_entropies(reference, batch)

        def advantages(batch: Batch) -> Tensor:
            own = -next_token_cross_entropies(model, batch)
            return implicit_advantages(own, log_probabilities(batch), batch.response_mask, critic.beta)

        objective = ImplicitObjective(critic, lambda batch: -log_probabilities(batch))
        return Learner(model, objective, advantages)
    value = ValueModel.from_base(base, "mlp")
    return Learner(value, ValueObjective(critic), lambda batch: value(batch.input_ids, batch.attention_mask))


def trained(source: Source, fold: Fold, objective: str, options: argparse.Namespace) -> tuple[Rankers, dict[str, Any]]:
    """A critic of this objective, trained, and what is worth knowing of its run; its checkpoints are deleted."""
    torch.manual_seed(SEED)
    config = fit_config(fold, objective, options)
    critic = learner(config.critic, options)
    learned = {name: p for name, p in critic.model.named_parameters() if p.requires_grad}
    data = PairDataConfig(root=fold.root, dataset=fold.dataset, template="plain", max_length=source.max_length)
    train, validation = load_pairs(data, load_tokenizer(options.output / "model"), SEED)

    def stream(pairs: PairStore) -> BatchStream:
        return BatchStream(pairs.store, MAX_TOKENS, 1, SEED, together=pairs.pairs, pad_id=PADDING)

    def save(_model: PreTrainedModel, folder: Path) -> None:
        folder.mkdir()
        torch.save({name: p.detach() for name, p in learned.items()}, folder / "learned.pt")

    groups = [Group("critic", learned.values(), config.optim.lr)]
    batches = stream(train), stream(validation).first()
    run = fit(config, Parts(critic.model, lambda: critic.model, groups, critic.objective, *batches, save))
    if run is None:
        raise KeyboardInterrupt
    checks = read_metrics(run, "validation")
    step = best_step(checks)
    chosen = next(path for path in checkpoints_in(run / "checkpoints") if step_of(path) == step)
    for name, best in torch.load(chosen / "model" / "learned.pt").items():
        learned[name].data.copy_(best)
    critic.model.eval()
    scores = score_programs(
        lambda batch: program_scores(critic.values(batch), batch.response_mask, config.critic), fold.store
    )
    shutil.rmtree(run)
    rankers = {objective: {kind: won(pairs, scores) for kind, pairs in fold.pairs.items()}}
    return rankers, {"step": step, "validation": [[check["step"], check["pair_accuracy"]] for check in checks]}


def best_step(checks: Sequence[Mapping[str, Any]]) -> int:
    """The step after the first whose validation ranks most pairs right, of equals the last."""
    return int(max((check for check in checks if check["step"]), key=lambda c: (c["pair_accuracy"], c["step"]))["step"])


def measured(source: Source, number: int, options: argparse.Namespace) -> Iterator[Path]:
    """The records of a fold, made where they are missing."""
    missing = []
    for objective in (UNTRAINED, *options.objectives):
        record = options.output / "records" / f"{source.name}-{number}-{objective}.json"
        if record.exists():
            _check_same(record, options)
            yield record
        else:
            missing.append((objective, record))
    fold = make_fold(source, number, options) if missing else None
    for objective, record in missing:
        console.print(f"{record.stem}", highlight=False)
        started = time.monotonic()
        if objective == UNTRAINED:
            rankers, notes = untrained(source, fold, options), {}
        elif objective == FROZEN:
            rankers, notes = frozen(fold, options)
        else:
            rankers, notes = trained(source, fold, objective, options)
        found = {**_identity(options), "seconds": round(time.monotonic() - started, 1), **notes, "rankers": rankers}
        with atomic_file(record) as partial:
            partial.write_text(json.dumps(found) + "\n")
        yield record


def _identity(options: argparse.Namespace) -> dict[str, Any]:
    """The options that a record's numbers depend on."""
    names = ("model", "last_layers", "steps", "lr", "pairs_per_problem", "statements")
    return {"options": {name: str(vars(options)[name]) for name in names}}


def _check_same(record: Path, options: argparse.Namespace) -> None:
    there, wanted = json.loads(record.read_text())["options"], _identity(options)["options"]
    if differing := [name for name in wanted if there[name] != wanted[name]]:
        name = differing[0]
        raise UserError(
            f"{record} was made with --{name.replace('_', '-')} {there[name]}, not {wanted[name]}: "
            "give the same, or another --output"
        )


def merged(records: Iterable[Path]) -> Rankers:
    """The counts of several folds together: each problem is held out by one of them."""
    together: Rankers = {}
    for record in records:
        for ranker, kinds in json.loads(record.read_text())["rankers"].items():
            for kind, counts in kinds.items():
                together.setdefault(ranker, {}).setdefault(kind, {}).update(
                    {problem: (n, c) for problem, (n, c) in counts.items()}
                )
    return together


def table(found: Mapping[str, Rankers]) -> str:
    """Markdown: a row a source and ranker, a column a kind of pairs, accuracies with 95 % intervals over problems.

    The last column is the difference to lengths alone on all pairs, paired by problem.
    """
    kinds = ("all", "balanced", "repairs")
    lines = [f"| source | ranker | {' | '.join(kinds)} | all, over length |", "|---" * (len(kinds) + 3) + "|"]
    for source, rankers in found.items():
        any_ranker = next(iter(rankers.values()))
        names = list(any_ranker["all"])
        sizes = [_size(any_ranker[kind]) if kind in any_ranker else "–" for kind in kinds]
        lines.append(f"| {source} | *problems, pairs* | {' | '.join(sizes)} | – |")
        for ranker, of in rankers.items():
            cells = [_cell(of[kind]) if kind in of else "–" for kind in kinds]
            over = over_seeds_and_problems(_shares(of["all"], names), _shares(rankers[LENGTH]["all"], names))
            cells.append(f"{over.value:+.3f} ({over.low:+.3f} to {over.high:+.3f})")
            lines.append(f"| | {ranker} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _shares(counts: SampleCounts, problems: Sequence[str]) -> NDArray[np.float64]:
    """(1, P) accuracy in each problem."""
    return np.array([[counts[problem][1] / counts[problem][0] for problem in problems]])


def _size(counts: SampleCounts) -> str:
    return f"{len(counts)}, {sum(n for n, _ in counts.values()) // 2}"


def _cell(counts: SampleCounts) -> str:
    accuracy = estimate(counts, (1,))[1]
    return f"{accuracy.value:.3f} ({accuracy.low:.3f}–{accuracy.high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="backbone: model folder, .gguf file or hub id")
    parser.add_argument("--data", type=Path, required=True, help="folder with a folder of each source")
    parser.add_argument("--output", type=Path, default=Path("storage/real_pairs"))
    parser.add_argument("--sources", help=f"comma-separated, of {', '.join(SOURCES)}")
    parser.add_argument("--objectives", help=f"comma-separated, of {', '.join(OBJECTIVES)}")
    parser.add_argument("--folds", help="comma-separated numbers; all of a source's where not given")
    parser.add_argument("--last-layers", type=int, default=2, help="of the backbone, which are trained")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--pairs-per-problem", type=int, default=64)
    parser.add_argument("--statements", action="store_true", help="contest problems are asked with their statement")
    parser.add_argument("--threads", type=int, default=2)
    with user_errors(debug=False):
        run(parser.parse_args())


def run(options: argparse.Namespace) -> None:
    """Make the records that are missing, and print the table."""
    options.objectives = chosen("--objectives", options.objectives.split(","), OBJECTIVES)
    sources = [SOURCES[name] for name in chosen("--sources", options.sources.split(","), tuple(SOURCES))]
    if not (options.output / "model").is_dir():
        convert(options.model, options.output / "model", heads=None)
    torch.set_num_threads(options.threads)
    found = {}
    for source in sources:
        folds = range(source.folds) if options.folds is None else map(int, options.folds.split(","))
        found[source.name] = merged(record for fold in folds for record in measured(source, fold, options))
    text = table(found)
    with atomic_file(options.output / "table.md") as partial:
        partial.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
