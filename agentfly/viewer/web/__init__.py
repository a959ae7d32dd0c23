"""Templates, style sheet and scripts of the pages."""

from agentfly.viewer.web.render import Page, page_response, templates

__all__ = ["Page", "page_response", "templates"]
