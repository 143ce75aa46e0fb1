"""The command line: its commands in order, and what a user error looks like: exit status 2."""

import errno
import sys
from collections.abc import Sequence

import click

import facetrain
from facetrain.commands import data_sets, evaluation, results, review, stages
from facetrain.core.errors import UserError

_NOT_WRITABLE = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES,
    # a file where a folder should be, or a folder where a file
    errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG,
)  # fmt: skip


class _Commands(click.Group):
    """Lists commands in the order of a pipeline rather than of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(facetrain.__version__, package_name="facetrain")
def cli() -> None:
    """Turn a face-image set into a verified face-recognition model.

    Images become RecordIO shards (pack), shards a backbone (train), a backbone embeddings (embed)
    and numbers (evaluate); embeddings give a kNN graph (graph), and that a label overlay without
    the noise (clean). `run` does all but the first, resumable at any point. Under torchrun every
    stage runs on all its processes: torchrun --nproc-per-node 8 -m facetrain run ...

    Shell completion: eval "$(_FACETRAIN_COMPLETE=bash_source facetrain)"
    """


for _command in (
    stages.demo,
    data_sets.pack,
    data_sets.inspect,
    data_sets.corrupt,
    data_sets.variations,
    stages.run,
    stages.train,
    stages.embed,
    stages.graph,
    stages.clean,
    stages.finetune,
    evaluation.evaluate,
    results.report,
    review.review,
    results.export,
):
    cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; the console script's entry point."""
    try:
        cli.main(args=arguments, prog_name="facetrain", standalone_mode=True)
    except UserError as error:
        click.echo(f"facetrain: {error}", err=True)
        sys.exit(2)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):  # torch reports one that dies by a signal
            raise
        click.echo(
            f"facetrain: every loader worker must live as long as the run, but one died: {error}; "
            "when it was killed for memory, lower data.workers; run the same command to continue",
            err=True,
        )
        sys.exit(2)
    except OSError as error:
        if error.errno not in _NOT_WRITABLE:
            raise
        path = error.filename2 or error.filename or "output"  # of a renaming, what it should become
        click.echo(
            f"facetrain: {path}: must be writable, but {error.strerror}; "
            "free space or choose another --out, then run the same command again: finished work "
            "is kept",
            err=True,
        )
        sys.exit(2)
