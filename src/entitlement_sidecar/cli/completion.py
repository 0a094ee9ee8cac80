"""`entitlements completion SHELL`: the completion script."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash:  entitlements completion bash > ~/.local/share/bash-completion/completions/entitlements
    zsh:   entitlements completion zsh > ~/.zfunc/_entitlements     (a folder of fpath)
    fish:  entitlements completion fish > ~/.config/fish/completions/entitlements.fish
    """  # noqa: D301 - click wants the character itself: lines stay as they are
    found = get_completion_class(shell)
    root = click.get_current_context().find_root().command
    if found is None:  # click has all three; this is for types only
        raise click.UsageError(f"no completion for {shell}")
    click.echo(found(root, {}, "entitlements", "_ENTITLEMENTS_COMPLETE").source())
