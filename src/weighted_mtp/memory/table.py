"""The memory of one rank as a table: a row for each way to share a run among ranks."""

from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.table import Table

from weighted_mtp.memory.footprint import Microbatch
from weighted_mtp.memory.layout import Footprint, Layout

GB, MB = 1e9, 1e6


@dataclass(frozen=True)
class PlanRow:
    """One way to share a run, and what a rank needs then."""

    layout: Layout
    activation_checkpointing: bool | Literal["selective"]
    bytes: Footprint

    @property
    def name(self) -> str:
        """How ranks share it."""
        named = [self.layout.parallel] if self.layout.ranks > 1 else ["one rank"]
        named += ["host"] * self.layout.cpu_offload
        return ", ".join(named)


_COLUMNS = {
    "model": "parameters",
    "frozen": "evaluated",
    "grads": "gradients",
    "optim": "optimizer",
    "whole": "gathered",
    "activ": "activations",
    "loss": "loss",
    "peak": "peak",
    "host": "host",
}


def plan_table(rows: list[PlanRow], batch: Microbatch, gpu_memory: float) -> Table:
    """All rows, the configured one first, in GB (MB if all is little); `gpu_memory` is what a rank has, in GB.

    No wider than 80 columns, in which logs and pipes cut.
    """
    layout = rows[0].layout
    unit, size = ("MB", MB) if max(row.bytes.peak for row in rows) < GB else ("GB", GB)
    table = Table(
        title=f"{unit} per rank: {layout.ranks} ranks, {layout.per_node} per node; {layout.precision}; microbatches of "
        f"{batch.rows} x {batch.length} tokens, {layout.microbatches} per rank and step",
        caption="The first row is the configured one. ckpt: activation_checkpointing; frozen: critic and reference; "
        "whole: what a rank has gathered for the moment; loss: logits and temporaries; peak: the most at one time, "
        f"without the GPU's own context; host: in main memory instead (cpu_offload); fits: into {gpu_memory:g} GB.",
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE,
        padding=0,
    )
    table.add_column("runtime", no_wrap=True)
    table.add_column("ckpt", no_wrap=True)
    for column in (*_COLUMNS, "fits"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        numbers = [_short(getattr(row.bytes, part) / size) for part in _COLUMNS.values()]
        table.add_row(
            row.name,
            {False: "no", True: "yes", "selective": "part"}[row.activation_checkpointing],
            *numbers,
            "yes" if row.bytes.peak <= gpu_memory * GB else "no",
        )
    return table


def _short(number: float) -> str:
    """In five characters, up to 9,999."""
    return f"{number:,.0f}" if number >= 999.5 else f"{number:.1f}" if number >= 9.995 else f"{number:.2f}"
