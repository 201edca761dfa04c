"""What every command shares: options, errors without tracebacks, and figures as one JSON object."""

from __future__ import annotations

import functools
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import torch
import typer
from rich.console import Console

from redrift._core.errors import NumericalError
from redrift._core.files import write_atomically

Model = Annotated[str, typer.Argument(help="A shipped model's name or a model file.")]
Seed = Annotated[int | None, typer.Option(help="Seed of the noise; drawn and reported if absent.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads.")]
Device = Annotated[str, typer.Option(help="Device to run on, such as cpu or cuda.")]
Json = Annotated[
    str | None, typer.Option("--json", help="Write the figures as JSON to FILE; - is the output.")
]

Command = TypeVar("Command", bound=Callable[..., Any])


def fail(message: str) -> NoReturn:
    """Print an error and leave with code 2."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"[red]error[/] {escape(message)}")
    raise typer.Exit(2)


def escape(text: str) -> str:
    """Keep square brackets from being read as markup."""
    return text.replace("[", "\\[")


def plainly(command: Command) -> Command:
    """Turn the errors a user can cause into one line and exit code 2."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        try:
            return command(*args, **kwargs)
        except (ValueError, TypeError, ImportError, OSError, NumericalError) as error:
            fail(str(error))

    return run  # pyright: ignore[reportReturnType]


class Report:
    """One run's console, seed and figures.

    Args:
        json_file: where the figures go: a path, "-" for standard output (nothing else then), None.
        seed: given by the user, or None to draw one.
        threads: CPU threads, or None.
        device: name of the torch device.
        outputs: paths that will be written; checked before any work is done.

    Raises:
        ValueError: if the device does not exist.
        OSError: if a folder to write to does not exist.
    """

    def __init__(
        self,
        json_file: str | None,
        seed: int | None = None,
        threads: int | None = None,
        device: str = "cpu",
        outputs: tuple[Path | None, ...] = (),
    ) -> None:
        self.json_file = json_file
        self.console = Console(stderr=json_file == "-", highlight=False, soft_wrap=True)
        self.seed = random.SystemRandom().randrange(2**31) if seed is None else seed
        if threads is not None:
            torch.set_num_threads(threads)
        try:
            self.device = torch.device(device)
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f"device {device!r} cannot be used: {error}".split("\n")[0]
            ) from error
        extra = (Path(json_file),) if json_file not in (None, "-") else ()
        for path in (*outputs, *extra):
            if path is not None and not path.parent.is_dir():
                raise FileNotFoundError(
                    f"the folder {path.parent} does not exist; create it first."
                )
            if path is not None and path.is_dir():
                raise IsADirectoryError(f"{path} is a folder, expected a file name.")
        self.figures: dict[str, Any] = {"seed": self.seed}
        self._started = time.perf_counter()

    def generators(self, n: int) -> list[torch.Generator]:
        """Return one generator per sample, so that sample i does not depend on n."""
        return [torch.Generator().manual_seed(self.seed + i) for i in range(n)]

    def print(self, text: object) -> None:
        """Print to the terminal (to standard error when the figures own standard output)."""
        self.console.print(text)

    def finish(self, **figures: Any) -> None:  # noqa: ANN401
        """Write the figures, with the seconds since the start."""
        self.figures.update(figures, seconds=round(time.perf_counter() - self._started, 3))
        text = json.dumps(self.figures, indent=1)
        if self.json_file == "-":
            sys.stdout.write(text + "\n")
        elif self.json_file is not None:
            write_atomically(
                self.json_file,
                lambda target: Path(target).write_text(text + "\n", encoding="utf-8"),
            )
