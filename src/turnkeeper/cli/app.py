"""The verbs as cyclopts knows them. A verb's module is imported when the verb is called."""

from cyclopts import App, Group

from turnkeeper.cli.verbs import EXAMPLES, FOOT, GROUPS, HEAD, VERBS, epilogue

OPTIONS_ANYWHERE = ("--store", "--server", "--json")
"""Options of every verb, which may also stand before it."""


def make_app() -> App:
    """The command line. It prints no error and never exits: `main` does."""
    groups = {name: Group(name, sort_key=place) for place, name in enumerate(GROUPS)}
    app = App(
        name="turnkeeper",
        help=HEAD,
        help_epilogue=epilogue(EXAMPLES, FOOT),
        help_format="plaintext",
        version=_version,
        group_commands=Group("Program", sort_key=len(GROUPS)),
        group_arguments=Group("Arguments", sort_key=0),
        group_parameters=Group("Options", sort_key=1),
        suppress_keyboard_interrupt=False,
        exit_on_error=False,
        print_error=False,
        result_action="return_value",
    )
    for place, verb in enumerate(VERBS):
        app.command(
            f"turnkeeper.cli.{verb.where}",
            name=verb.name,
            help="\n\n".join(part for part in (verb.summary, verb.details) if part),
            help_epilogue=epilogue(verb.examples),
            group=groups[verb.group],
            sort_key=place,
        )
    return app


def _version() -> str:
    from importlib.metadata import version  # noqa: PLC0415  the help has no use for its 10 ms

    return version("turnkeeper")


def verb_first(tokens: list[str]) -> list[str]:
    """The command line with the options that stand before the verb put behind it."""
    position = 0
    while position < len(tokens) and tokens[position].split("=")[0] in OPTIONS_ANYWHERE:
        position += 2 if tokens[position] in {"--store", "--server"} else 1
    before, rest = tokens[:position], tokens[position:]
    return [*rest[:1], *before, *rest[1:]]
