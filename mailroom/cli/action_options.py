"""The arguments and options of `actions`: those of a new row with its defaults, and those that change one."""

from typing import Annotated, Any, Final

import typer

from mailroom.job import Priority

# What can be a job's priority from the start.
PRIORITIES: Final = {priority.name.lower(): priority.value for priority in Priority if priority < Priority.QUARANTINE}
STATUSES: Final = ("provisioned", "active", "suspended")
NO_LIMIT: Final = "none"
# What the constraints of the table want, for who does not know them by name.
RULES: Final = {
    "actions_name_check": "NAME has at most 50 lower-case letters, digits and _, and begins with a letter",
    "actions_name_scope": "NAME must not be account, configuration_set or identity: a pause has these scopes",
    "actions_pkey": "there is an action with this NAME",
    "actions_number_key": "another action has this --number",
    "actions_template_check": "--template has 1 to 64 letters, digits, - and _",
    "actions_path_check": "--path begins with /, and has 1 to 100 letters, digits and . _ ~ / - after it",
    "actions_path_key": "another action has this --path",
    "actions_life_check": "--life is a minute to 366 days",
    "actions_activates": "--activates goes with --needs provisioned alone",
}
_AS_IT_IS: Final = "as it is"


def _template(**more: Any) -> Any:
    return typer.Option("--template", metavar="NAME", help="Name of the template at SES.", **more)


def _life(**more: Any) -> Any:
    return typer.Option("--life", metavar="TIME", help="How long a link is good, as in 15m, 2h or 7d.", **more)


def _priority(**more: Any) -> Any:
    return typer.Option("--priority", metavar="LEVEL", help=f"How soon it leaves: {', '.join(PRIORITIES)}.", **more)


def _needs(**more: Any) -> Any:
    words = f"The status an account must have: {', '.join(STATUSES)}."
    return typer.Option("--needs", metavar="STATUS", help=words, **more)


def _per_15_minutes(**more: Any) -> Any:
    words = f"Maximum mails to an account in 15 minutes, or {NO_LIMIT}."
    return typer.Option("--per-15-minutes", metavar="NUMBER", help=words, **more)


def _per_day(**more: Any) -> Any:
    words = f"Maximum mails to an account in 24 hours, or {NO_LIMIT}."
    return typer.Option("--per-day", metavar="NUMBER", help=words, **more)


Name = Annotated[str, typer.Argument(metavar="NAME", help="Lower-case letters, digits and _.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Renews = Annotated[
    bool | None,
    typer.Option(
        "--renews/--no-renews", help="If half its life is over when its mail leaves, a link gets all of it again."
    ),
]
NewestOnly = Annotated[
    bool | None,
    typer.Option("--newest-only/--no-newest-only", help="Mail only the newest of those that wait for an account."),
]
Activates = Annotated[
    bool | None, typer.Option("--activates/--no-activates", help="Using the link activates a provisioned account.")
]

NewTemplate = Annotated[str, _template()]
NewLife = Annotated[str, _life()]
NewPriority = Annotated[str, _priority()]
NewNeeds = Annotated[str, _needs()]
NewPer15Minutes = Annotated[str, _per_15_minutes()]
NewPerDay = Annotated[str, _per_day()]
Path = Annotated[
    str, typer.Option("--path", metavar="PATH", help="Path of its links, as in /enter. Tokens are signed with it.")
]
Number = Annotated[
    int | None,
    typer.Option(min=1, max=32_767, metavar="INTEGER", help="Number in lines of `collect`.", show_default="the next"),
]
Code = Annotated[bool, typer.Option("--code", help="The mail has a code of five digits besides the link.")]
AsSql = Annotated[bool, typer.Option("--sql", help="Print the INSERT, for a migration of your own. Change nothing.")]

Template = Annotated[str | None, _template(show_default=_AS_IT_IS)]
Life = Annotated[str | None, _life(show_default=_AS_IT_IS)]
Level = Annotated[str | None, _priority(show_default=_AS_IT_IS)]
Needs = Annotated[str | None, _needs(show_default=_AS_IT_IS)]
Per15Minutes = Annotated[str | None, _per_15_minutes(show_default=_AS_IT_IS)]
PerDay = Annotated[str | None, _per_day(show_default=_AS_IT_IS)]
Source = Annotated[
    str | None,
    typer.Option(
        "--source",
        metavar="ADDRESS",
        help=f"Sender, as in 'Shop <mail@example.com>', or {NO_LIMIT}: MAILROOM_SES_SOURCE.",
        show_default=_AS_IT_IS,
    ),
]
ReplyTo = Annotated[
    str | None,
    typer.Option(
        "--reply-to",
        metavar="ADDRESS",
        help=f"Address for replies, as in help@example.com, or {NO_LIMIT}: the sender.",
        show_default=_AS_IT_IS,
    ),
]
