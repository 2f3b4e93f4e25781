"""Puts on the site what pages link to outside of `docs/`: the examples."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

EXAMPLES = Path("examples")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the examples beside the pages."""
    root = Path(config.config_file_path).parent
    for path in sorted((root / EXAMPLES).rglob("*")):
        if path.suffix in (".py", ".jsonl", ".ipynb"):
            files.append(File.generated(config, path.relative_to(root).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """In a checkout the examples lie beside `docs/`, on the site below it."""
    return markdown.replace("](../examples/", "](examples/")
