"""Templates in a folder: read, checked, and put together as SES is to have them. For the commands.

A folder has `ACTION/LANGUAGE/subject.txt`, `text.txt` and `html.html`, a `layout` around them, and `templates.toml`.
"""

from mailroom.templates.check import problems
from mailroom.templates.compose import Content, compose
from mailroom.templates.folder import Folder, FolderError, read

__all__ = ["Content", "Folder", "FolderError", "compose", "problems", "read"]
