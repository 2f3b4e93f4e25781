"""The steps of a study as Slurm jobs, through submitit: one job per step."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from weighted_mtp.errors import UserError
from weighted_mtp.extras import install
from weighted_mtp.progress import say
from weighted_mtp.study.running import Running, Submit, ending, result_of
from weighted_mtp.study.steps import Step

try:
    import submitit
except ImportError as error:
    raise UserError(f"--scheduler slurm: {install('slurm')}") from error

DEFAULTS = {"timeout_min": 24 * 60}
OURS = ("name", "job_name", "nodes", "tasks_per_node", "ntasks_per_node")  # a step is one process, known by its name


@contextmanager
def on_slurm(parameters: Mapping[str, Any]) -> Iterator[Submit]:
    """Jobs with these parameters of submitit's `SlurmExecutor`; a job's script and output are in its run's `slurm`.

    A job whose time is up, or which makes way for another, is queued again and resumes from its checkpoint. Slurm runs
    one job of a step at a time, whoever submitted it: jobs of a command that was killed continue.

    Raises `UserError` if there is no Slurm, and for parameters that it does not know or that are not free.
    """
    if taken := [key for key in parameters if key in OURS]:
        raise UserError(f"slurm.{taken[0]}: a step is one process, in a job of the step's name; leave it out")
    jobs: list[submitit.Job[bool | UserError]] = []

    def submit(step: Step) -> Running:
        name = f"{step.study.name}-{step.place}"
        settings = {"dependency": "singleton", **DEFAULTS, **parameters, "job_name": name}
        try:
            executor = submitit.AutoExecutor(step.run / "slurm", cluster="slurm")
            executor.update_parameters(**{f"slurm_{key}": value for key, value in settings.items()})
            job = executor.submit(Resumable(), step)
        except (RuntimeError, NameError, ValueError) as error:
            raise UserError(f"--scheduler slurm, {step.place}: {' '.join(str(error).split())}") from error
        jobs.append(job)
        said = f"{step.place}: job {job.job_id}; {job.paths.stderr}"
        say(said)
        return _Job(step, job)

    def cancel() -> None:
        for job in jobs:
            if not job.done():
                job.cancel(check=False)

    with ending(cancel):
        yield submit


class Resumable(submitit.helpers.Checkpointable):
    """`result_of`, which submitit may call again with the same step."""

    def __call__(self, step: Step) -> bool | UserError:
        return result_of(step)


@dataclass(frozen=True)
class _Job:
    step: Step
    job: "submitit.Job[bool | UserError]"

    def done(self) -> bool:
        return bool(self.job.done())

    def result(self) -> bool | UserError:
        try:
            return self.job.result()
        except submitit.core.utils.FailedJobError:
            raise
        except submitit.core.utils.UncompletedJobError:
            return UserError(
                f"{self.step.place}: job {self.job.job_id} ended without a result ({self.job.state}); see "
                f"{self.job.paths.stderr}; the same command resumes from here"
            )
