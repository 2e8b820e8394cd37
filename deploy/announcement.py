"""What `warmbase up` says when it is ready, and when a part has died."""

import json
import shlex
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from deploy.log_lines import parse
from deploy.system import Death
from shared.refs import RepoId


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """A request worth trying: a model that stands on `base`, and a prompt that shows it."""

    base: RepoId
    model: RepoId
    prompt: str


EXAMPLES = (
    Example(
        base=RepoId("warmbase/shapes-xl"),
        model=RepoId("warmbase/outline"),
        prompt="outline style, a red circle on a white background",
    ),
    Example(
        base=RepoId("warmbase/shapes-sd"),
        model=RepoId("warmbase/neon-sd"),
        prompt="neon, a blue circle on a black background",
    ),
    Example(
        base=RepoId("stabilityai/stable-diffusion-xl-base-1.0"),
        model=RepoId("nerijs/pixel-art-xl"),
        prompt="pixel art, a lighthouse on a cliff",
    ),
)


def ready_text(url: str, bases: Sequence[RepoId], seconds: float) -> str:
    """Return what is printed once all is ready: where, what, how to try it, how to stop."""
    commands = "\n".join(f"  {curl_command(url, example_for(base))}" for base in bases)
    return (
        f"\nWarmbase is ready after {seconds:.1f} s: {url}\n"
        f"Warm: {', '.join(bases)}\n\n"
        f"Draw a picture:\n{commands}\n\n"
        "Ctrl-C stops everything.\n"
    )


def example_for(base: RepoId) -> Example:
    """Return a request that `base` serves: with an adapter where one is known, else the base itself."""
    bare = Example(base=base, model=base, prompt="a lighthouse on a cliff")
    return next((example for example in EXAMPLES if example.base == base), bare)


def curl_command(url: str, example: Example) -> str:
    """Return a command line that draws the example into `picture.png`."""
    arguments = (
        *("curl", f"{url}/models/{example.model}"),
        *("-H", "Content-Type: application/json"),
        *("-d", json.dumps({"inputs": example.prompt})),
        *("-o", "picture.png"),
    )
    return shlex.join(arguments)


def death_text(death: Death) -> str:
    """Return why everything ended: the part, how it ended, and the last that it said."""
    tail = "\n".join(f"  {parse(line).text}" for line in death.tail) or "  (nothing)"
    return f"{death.name} {_how(death.exit_code)}, so everything was stopped. Its last lines:\n{tail}"


def _how(exit_code: int) -> str:
    if exit_code >= 0:
        return f"ended by itself with exit code {exit_code}"
    try:
        return f"was ended by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"was ended by signal {-exit_code}"
