"""The command line `posegen`: generate, evaluate, hands, convert, export.

Errors are one sentence on stderr and exit code 2; an interrupt ends with 130, too little GPU memory with 3.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from posegen.commands.checkpoints import Convert, Export, convert, export
from posegen.commands.evaluate import Evaluate, evaluate
from posegen.commands.generate import Generate, generate
from posegen.commands.hands import Hands, hands
from posegen.commands.progress import say
from posegen.common.weights import WeightsError

COMMANDS: dict[type, Callable[[Any], None]] = {
    Generate: generate,
    Evaluate: evaluate,
    Hands: hands,
    Convert: convert,
    Export: export,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; `arguments` are those of the process unless given."""
    app = tyro.extras.SubcommandApp()
    for options, run in COMMANDS.items():
        app.command(name=run.__name__)(options)
    asked = app.cli(prog="posegen", description="Long videos of a person from one picture.", args=arguments)
    try:
        COMMANDS[type(asked)](asked)
    except (ValueError, WeightsError) as error:
        say(f"posegen: {error}")
        sys.exit(2)
    except KeyboardInterrupt:
        say("posegen: interrupted; with --store the same command goes on where it stopped")
        sys.exit(130)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's own, which --help does not wait for
            raise
        say(
            "posegen: the GPU has too little memory for this; try --offload, --tiling, --form input, a smaller --size, "
            "or more --devices. --dry-run tells what is needed."
        )
        sys.exit(3)


if __name__ == "__main__":
    main()
