"""The command line: its commands in order, and how an error ends: one message, one exit status."""

import contextlib
import os
import select
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn, TextIO

import click

import facetrain
from facetrain.commands import (
    cleaning,
    configuration,
    data_sets,
    evaluation,
    results,
    review,
    stages,
)
from facetrain.core.errors import BAD_INPUT, INTERRUPTED, UNREAD, UserError
from facetrain.core.system_error import as_user_error
from facetrain.core.text import printable_lines
from facetrain.core.threads import wait_asleep


class _PastClickError(Exception):
    """Carries `error` past click, which would take it for something else."""

    def __init__(self, error: Exception) -> None:
        self.error = error


@contextlib.contextmanager
def _past_click() -> Iterator[None]:
    """For click an EOFError is Ctrl-C, and a broken pipe, of whomever, ends without a word."""
    try:
        yield
    except (EOFError, BrokenPipeError) as error:
        raise _PastClickError(error) from None


class _Commands(click.Group):
    """Lists commands in the order of a pipeline rather than of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _past_click():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _past_click():
            return super().invoke(ctx)


_EPILOG = """\b
Exit status:
    0  success
    2  usage, or input that is not what it should be
    3  training diverged
    4  output cannot be written: no space, no permission
  130  interrupted (Ctrl-C); the same command continues
  141  nobody reads the output any more (a pipe was closed)
  143  told to end (SIGTERM); a training saves its step first
"""


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EPILOG
)
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
    cleaning.embed,
    cleaning.graph,
    cleaning.clean,
    stages.finetune,
    evaluation.evaluate,
    results.report,
    review.review,
    results.write,
    results.export,
    configuration.config,
):
    cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; the console script's entry point."""
    wait_asleep(os.environ)
    interrupts = _noted_interrupts()
    try:
        _need_folder()
        status = cli.main(args=arguments, prog_name="facetrain", standalone_mode=False)
    except click.ClickException as wrong:
        with contextlib.suppress(OSError):
            wrong.show()
        sys.exit(BAD_INPUT)
    except (Exception, KeyboardInterrupt) as raised:
        error = raised.error if isinstance(raised, _PastClickError) else raised
        if interrupts or isinstance(error, click.Abort | KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one would only cut this short
            _end("interrupted; the same command continues from what is finished", INTERRUPTED)
        if isinstance(error, BrokenPipeError) and _unread(sys.stdout):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still to be said at the end
            sys.exit(UNREAD)
        known = error if isinstance(error, UserError) else as_user_error(error)
        if known is None:
            raise error from None
        _end(str(known), known.exit_status)
    sys.exit(status if isinstance(status, int) else 0)  # --help and --version give a number


def _noted_interrupts() -> list[int]:
    """Grows with each Ctrl-C: where one falls into C code, another error may come out of it."""
    came: list[int] = []

    def take(number: int, _: object) -> NoReturn:
        came.append(number)
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        with contextlib.suppress(ValueError):  # not the main thread
            signal.signal(signal.SIGINT, take)
    return came


def _need_folder() -> None:
    """Raises UserError where the working directory was deleted: libraries say odder things."""
    try:
        os.getcwd()
    except OSError as error:
        raise UserError(
            f"the working directory must exist, but {error.strerror}; cd to another"
        ) from None


def _unread(stream: TextIO) -> bool:
    """Whether this is a pipe that nobody reads."""
    polled = select.poll()
    polled.register(stream, 0)
    return any(event & select.POLLERR for _, event in polled.poll(0))


def _end(message: str, status: int) -> NoReturn:
    with contextlib.suppress(OSError):  # the status tells as much
        click.echo(f"facetrain: {printable_lines(message)}", err=True)
    sys.exit(status)
