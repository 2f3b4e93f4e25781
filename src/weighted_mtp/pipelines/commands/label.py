"""`wmtp label`"""

from weighted_mtp.pipelines.commands.flags import takes
from weighted_mtp.pipelines.config import LabelConfig


@takes("label")
def main(config: LabelConfig) -> None:
    """Make a dataset of a policy's own programs: executed samples of training problems, labelled by their verdicts.

    Programs are told apart by their text and kept once per problem; those that were cut are left out.
    """
    from weighted_mtp.pipelines.label_samples import label

    label(config.evaluations, config.storage / "datasets" / config.name, config)
