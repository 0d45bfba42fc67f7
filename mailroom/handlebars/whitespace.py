r"""White space that tags take away: those with `~`, and those that have a line to themselves.

The rules are those of handlebars.js: a block, a partial or a comment alone on its line leaves no line behind.
"""

import re
from typing import Final

from mailroom.handlebars.tree import Block, Comment, Content, Node, Partial, Program, Strip, Variable

# What JavaScript calls white space.
SPACE: Final = (
    "\t\n\v\f\r \u00a0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000\ufeff"
)
_REST_OF_LINE: Final = re.compile(r"[ \t]*\r?\n?")


def control(program: Program, *, is_root: bool = True) -> None:
    """Take away from each text of the tree what the tags around it ask for."""
    nodes = program.nodes
    for index, node in enumerate(nodes):
        match node:
            case Content():
                pass
            case Variable(strip=strip):
                _strip_around(nodes, index, strip)
            case Comment(strip=strip) | Partial(strip=strip):
                alone = _ends_line(nodes, index, is_root) and _begins_line(nodes, index, is_root)
                _strip_around(nodes, index, strip)
                if alone:
                    _omit_after(nodes, index)
                    if _omit_before(nodes, index) and isinstance(node, Partial):
                        node.indent = _indent(nodes[index - 1])
            case Block():
                opens, closes = _control_block(node)
                opens = opens and _ends_line(nodes, index, is_root)
                closes = closes and _begins_line(nodes, index, is_root)
                _strip_around(nodes, index, Strip(node.open_strip.open, node.close_strip.close))
                if opens:
                    _omit_after(node.body.nodes, -1)
                    _omit_before(nodes, index)
                if closes:
                    _omit_after(nodes, index)
                    last = (node.inverse or node.body).nodes
                    _omit_before(last, len(last))


def _control_block(block: Block) -> tuple[bool, bool]:
    """Do it inside of a block; return whether its first and its last tag may have a line to themselves."""
    control(block.body, is_root=False)
    if block.inverse is not None:
        control(block.inverse, is_root=False)
    body = block.body.nodes
    first, last = _branches(block)
    opens = _begins_line(body, -1, is_root=False)
    closes = _ends_line(first, len(first), is_root=False)
    if block.open_strip.close:
        _omit_after(body, -1, all_of_it=True)
    if block.inverse is None:
        if block.close_strip.open:
            _omit_before(body, len(body), all_of_it=True)
        return opens, closes
    if block.inverse_strip.open:
        _omit_before(body, len(body), all_of_it=True)
    if block.inverse_strip.close:
        _omit_after(first, -1, all_of_it=True)
    if block.close_strip.open:
        _omit_before(last, len(last), all_of_it=True)
    if _ends_line(body, len(body), is_root=False) and _begins_line(first, -1, is_root=False):
        _omit_before(body, len(body))
        _omit_after(first, -1)
    return opens, closes


def _branches(block: Block) -> tuple[list[Node], list[Node]]:
    """Return what lies in the first of the other branches, and in the last; without any, in the block."""
    if block.inverse is None:
        return block.body.nodes, block.body.nodes
    first = last = block.inverse
    while last.chained:
        [chained] = last.nodes
        assert isinstance(chained, Block)  # noqa: S101 - all that a chain has
        last = chained.body
        if first is block.inverse:
            first = last
    return first.nodes, last.nodes


def _strip_around(nodes: list[Node], index: int, strip: Strip) -> None:
    if strip.close:
        _omit_after(nodes, index, all_of_it=True)
    if strip.open:
        _omit_before(nodes, index, all_of_it=True)


def _ends_line(nodes: list[Node], index: int, is_root: bool) -> bool:
    """Whether there is nothing but white space before it on its line."""
    if index == 0:
        return is_root
    previous = nodes[index - 1]
    if not isinstance(previous, Content):
        return False
    head = previous.original.rstrip(SPACE)
    return "\n" in previous.original[len(head) :] or (is_root and index == 1 and not head)


def _begins_line(nodes: list[Node], index: int, is_root: bool) -> bool:
    """Whether there is nothing but white space after it on its line."""
    if index + 1 == len(nodes):
        return is_root
    following = nodes[index + 1]
    if not isinstance(following, Content):
        return False
    rest = following.original.lstrip(SPACE)
    blank = following.original[: len(following.original) - len(rest)]
    return "\n" in blank or (is_root and index + 2 == len(nodes) and not rest)


def _omit_after(nodes: list[Node], index: int, *, all_of_it: bool = False) -> None:
    content = nodes[index + 1] if index + 1 < len(nodes) else None
    if not isinstance(content, Content) or (not all_of_it and content.right_stripped):
        return
    before = content.value
    content.value = before.lstrip(SPACE) if all_of_it else _REST_OF_LINE.sub("", before, count=1)
    content.right_stripped = content.value != before


def _omit_before(nodes: list[Node], index: int, *, all_of_it: bool = False) -> bool:
    """Return whether there was something to take away."""
    content = nodes[index - 1] if index > 0 else None
    if not isinstance(content, Content) or (not all_of_it and content.left_stripped):
        return False
    before = content.value
    content.value = before.rstrip(SPACE if all_of_it else " \t")
    content.left_stripped = content.value != before
    return content.left_stripped


def _indent(before: Node) -> str:
    assert isinstance(before, Content)  # noqa: S101 - something was taken away from it
    return before.original[len(before.original.rstrip(" \t")) :]
