"""The memory of one rank as a table: a row for each way to share a run among ranks."""

from dataclasses import dataclass

from rich import box
from rich.table import Table

from weighted_mtp.training.footprint import Microbatch
from weighted_mtp.training.memory_plan import Footprint, Layout

GB = 1e9


@dataclass(frozen=True)
class PlanRow:
    """One way to share a run, and what a rank needs then."""

    layout: Layout
    activation_checkpointing: bool
    bytes: Footprint

    @property
    def name(self) -> str:
        """The options that make it."""
        named = [self.layout.parallel] if self.layout.ranks > 1 else ["one rank"]
        named += ["checkpointing"] * self.activation_checkpointing + ["offload"] * self.layout.cpu_offload
        return ", ".join(named)


_COLUMNS = {
    "params": "parameters",
    "asked": "asked",
    "grads": "gradients",
    "optim": "optimizer",
    "gather": "gathered",
    "activ": "activations",
    "loss": "loss",
    "peak": "peak",
    "host": "host",
}


def plan_table(rows: list[PlanRow], batch: Microbatch, gpu_memory: float) -> Table:
    """All rows, the configured one first, in GB; `gpu_memory` is what a rank has."""
    layout = rows[0].layout
    table = Table(
        title=f"GB a rank: {layout.ranks} ranks, {layout.per_node} a node; {layout.precision}; microbatches of "
        f"{batch.rows} x {batch.length} tokens, {layout.microbatches} a rank and step",
        caption="The first row is the configured one. asked: critic and reference; gather: what a rank has whole for "
        "the moment; loss: logits and temporaries; peak: the most at one time, without the GPU's own context; host: "
        "in main memory instead.",
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
    )
    table.add_column("runtime", no_wrap=True)
    for column in (*_COLUMNS, f"in {gpu_memory:g}"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        numbers = [_gigabytes(getattr(row.bytes, part)) for part in _COLUMNS.values()]
        table.add_row(row.name, *numbers, "yes" if row.bytes.peak <= gpu_memory * GB else "no")
    return table


def _gigabytes(size: float) -> str:
    """Two digits or more."""
    return f"{size / GB:,.1f}" if size >= GB else f"{size / GB:.2g}"
