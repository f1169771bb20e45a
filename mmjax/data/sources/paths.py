"""File lookup by path, folder or glob."""

import glob
import re
from pathlib import Path

from mmjax.errors import InputError, excerpt, one_line


def find_files(path: str | tuple[str, ...], suffix: str, hint: str = "") -> tuple[Path, ...]:
    """Returns the absolute paths of the files that `path` names; those of a folder or glob are sorted.

    A folder or glob passes over dot files, partial files (`.part`) and indexes (`.index.json`).

    Raises:
        InputError: a path has no file. The message ends with `hint`.
    """
    files: list[Path] = []
    for name in (path,) if isinstance(path, str) else path:
        try:
            files += _find(name, suffix, hint)
        except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL, an unknown ~user, a loop
            reason = one_line(getattr(error, "strerror", None) or str(error))
            raise InputError(f"expected the path of data, found {excerpt(name)}: {reason}") from error
    return tuple(files)


def _find(name: str, suffix: str, hint: str) -> list[Path]:
    if not name:
        raise InputError("expected the path of data, found an empty one. Write '.' for this folder.")
    target = Path(name).expanduser().absolute()
    # The folders that exist are no part of a pattern, whatever brackets are in their names.
    parent = next(folder for folder in (target, *target.parents) if folder.exists())
    if target.is_dir():
        matches = sorted(file for file in target.iterdir() if file.name.endswith(suffix))
        expected = f"files *{suffix} in the folder {one_line(str(target))}"
    elif target.exists():
        return [target]
    elif glob.has_magic(pattern := str(target.relative_to(parent))):
        found = sorted(glob.glob(pattern, root_dir=parent, recursive=True))
        # `**` also matches folders on the way to files.
        matches = [
            file for file in map(parent.joinpath, found) if not file.is_dir() or file.name.endswith(suffix)
        ]
        expected = f"files that match {one_line(str(target))}"
    else:
        matches, expected = [], f"data at {one_line(str(target))}"
    if matches := [file for file in matches if not _is_passed_over(file.name)]:
        return matches
    refuse_foreign(name)
    raise InputError(f"expected {expected}, found none{_explain(target, parent, hint)}")


def _is_passed_over(name: str) -> bool:
    return name.startswith(".") or name.endswith((".part", ".index.json"))


def _explain(target: Path, parent: Path, hint: str) -> str:
    """The end of the message about a path without data: the files found instead, and the remedy."""
    if target.is_symlink():
        return ": it is a symbolic link to a file that does not exist. Correct the link."
    there = ""
    if target.is_dir():
        others = sorted(file.name for file in target.iterdir())[:3]
        there = f", only {excerpt(others)}" if others else ": the folder is empty"
    elif parent != target.parent:
        there = f": of this path, only {one_line(str(parent))} exists"
    return f"{there}. {hint or 'Correct the path, or fetch the data.'}"


def refuse_foreign(name: str) -> None:
    """Raises InputError for what other libraries take for paths: URLs, commands, lists, braces."""
    if name.startswith("pipe:"):
        advice = "commands are not run here. Fetch the data first, and write the path of the files."
    elif scheme := re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", name):
        advice = f"{scheme[0]} is not read here. Fetch or mount the data, and write their local path."
    elif "::" in name:
        advice = "paths are not split at '::' here. Write a tuple of paths: ('a.tar', 'b.tar')."
    elif re.search(r"\{[^}]*(,|\.\.)[^}]*\}", name):
        pattern = re.sub(r"\{[^}]*\}", "*", name)
        advice = f"braces are not expanded here. Write a glob, {excerpt(pattern, 200)}, or a tuple of paths."
    else:
        return
    raise InputError(f"expected the path of data, found {excerpt(name)}: {advice}")
