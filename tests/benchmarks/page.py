"""The page and its pictures, made of what was kept."""

from pathlib import Path
from typing import Final

from tests.benchmarks import results
from tests.benchmarks.measures import MEASURES
from tests.benchmarks.results import Result
from tests.benchmarks.trial import Measure, say

HEAD: Final = """# Benchmarks

`make bench` (20 minutes) and `make bench-full` (two hours or more) write this page. Each part says when and on what it
was measured. The server, the workers, the peers and the simulator share one machine's cores, over loopback. The server
is durable (`fsync` and `synchronous_commit` on). Its other settings are the defaults, except where a part names them.
Figures are the median of the runs [lowest-highest]. Runs that are compared take turns in one session, and are compared
run by run. Absolute figures differ between machines; ratios differ less. Bad figures stay in.

`python -m tests.benchmarks drain latency` measures single parts again and leaves the others as they are. The figures
of every run are in `docs/benchmarks/*.json`. Queues of Node (graphile-worker, pg-boss) are not part of this."""

_SIZES: Final = {
    "tiny": "a tiny run, which shows nothing but that it works",
    "bench": "`make bench`",
    "full": "`make bench-full`",
}


def write(folder: Path, path: Path) -> None:
    """Write the page from the results in a folder, and draw the pictures into it."""
    kept = {name: found for name in MEASURES if (found := results.read(folder, name)) is not None}
    pictures = _draw(folder, kept)
    sections = [_section(MEASURES[name], found, folder, pictures.get(name)) for name, found in kept.items()]
    path.write_text("\n\n".join([HEAD, _aims(kept), *sections]) + "\n")


def _draw(folder: Path, kept: dict[str, Result]) -> dict[str, str]:
    """Draw what can be drawn; the name of a picture's file by its measure."""
    try:
        from tests.benchmarks import pictures  # noqa: PLC0415 - needs the extra `bench`
    except ModuleNotFoundError:
        say("no pictures: they need the extra `bench`")
        return {}
    drawn = {name: f"{name}.svg" for name in pictures.PICTURES if name in kept}
    for name, file in drawn.items():
        pictures.PICTURES[name](kept[name].grids, folder / file)
    return drawn


def _aims(kept: dict[str, Result]) -> str:
    lines = ["## What it should come to", "", "| what | aim | found | met |", "| --- | --- | --- | --- |"]
    for name, found in kept.items():
        lines += [aim.markdown() for aim in MEASURES[name].aims(found.grids) if aim.values]
    return "\n".join(lines)


def _section(measure: Measure, found: Result, folder: Path, picture: str | None) -> str:
    parts = [f"## {measure.TITLE}", measure.ABOUT]
    if picture is not None:
        parts.append(f"![{measure.TITLE}]({folder.name}/{picture})")
    parts += [grid.markdown() for grid in found.grids.values()]
    parts.append(_provenance(found))
    return "\n\n".join(parts)


def _provenance(found: Result) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    settings = " ".join(f"{name}={value}" for name, value in found.settings.items())
    how = f"{found.runs} run{'s' if found.runs > 1 else ''} of each, {found.seconds:,} s in all"
    return f"*Measured {found.measured_at} by {_SIZES[found.size]}, {how}; {found.machine}; {versions}; {settings}.*"
