"""`wmtp weights`"""

from weighted_mtp.pipelines.commands.flags import takes
from weighted_mtp.pipelines.config import WeightsConfig


@takes("weights")
def main(config: WeightsConfig) -> None:
    """Show programs with every token coloured by its weight and by what the critic says of it; or write them down."""
    from weighted_mtp.data.preparation.prepare import prepare_embedded
    from weighted_mtp.pipelines.token_weights import critic_source, run_source, split_of, write_weights

    directory = split_of(config)
    prepare_embedded(directory.parent.name, root=directory.parent.parent)
    source = (critic_source if config.critic else run_source)(config.trained)
    if config.format == "parquet":
        from weighted_mtp.pipelines.weights_table import write_weights_table

        print(f"{write_weights_table(source, directory, config.problems, config.file)} programs: {config.file}")
        return
    page, *pictures = write_weights(source, directory, config.problems or 4, config.file)
    print(f"page:    {page}", *(f"picture: {picture}" for picture in pictures), sep="\n")
