"""Templates as Amazon SES renders them: Handlebars without escaping, of which it documents a part. For everybody.

What SES documents is done as handlebars.js does it; anything else is refused by its name.
"""

from mailroom.handlebars.render import RenderingError, Template
from mailroom.handlebars.tree import TemplateError

__all__ = ["RenderingError", "Template", "TemplateError"]
