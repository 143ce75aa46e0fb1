"""The command `review`: a page to go through what the cleaner decided."""

from pathlib import Path

import click

from facetrain.commands.options import ReadablePath, print_result


@click.command(short_help="A page to go through the cleaner's decisions.")
@click.argument("run_dir", type=ReadablePath)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, show_default="any free one",
    help="Port on 127.0.0.1.",
)  # fmt: skip
@click.option("--no-open", is_flag=True, help="Only print the address; open no browser.")
def review(run_dir: Path, port: int, no_open: bool) -> None:
    """Look through the labels of RUN_DIR, a run that cleaned them: keep, drop, move, merge.

    Identities where a look sets most labels right come first. Every decision is on the disk at
    once, in RUN_DIR/review; after it, `facetrain run` with the same --out trains again on what was
    decided, and runs nothing else again. `train` takes the decisions up with
    data.overlay=[RUN_DIR/clean/overlay.npz,RUN_DIR/review/overlay.npz]; a further `embed`, `graph`
    and `clean` take the latter alone, and leave what was decided as it is.

    The page is served on this machine alone, to whoever has its address. From another one:
    --port P --no-open here, and there ssh -L P:127.0.0.1:P, then open the address.
    """
    from facetrain.core.log import configure_logging
    from facetrain.review.review import review as serve

    configure_logging()
    serve(run_dir, port, open_browser=not no_open, show=print_result)
