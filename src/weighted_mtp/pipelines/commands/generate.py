"""`wmtp generate`"""

from weighted_mtp.pipelines.commands.flags import takes
from weighted_mtp.pipelines.config import GenerateConfig


@takes("generate", "sampling", "server")
def main(config: GenerateConfig) -> None:
    """Complete one prompt, a file of them, or what is typed, with any model or server."""
    from weighted_mtp.pipelines.generate import generate

    generate(config)
