"""The list of groups, and the chains of one task with their rewards and advantages."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from agentfly.viewer.chain.setup import read_setup
from agentfly.viewer.groups.listed import SIZE, SORTS, GroupFilters, list_groups
from agentfly.viewer.groups.task import task_view
from agentfly.viewer.pages.context import Context, context_of
from agentfly.viewer.web import Page, page_response

router = APIRouter()


def list_page(context: Context, filters: GroupFilters) -> Page:
    """Return one page of the list of groups."""
    groups = list_groups(context.run.index, filters)
    return context.page("groups", "Groups", groups=groups, filters=filters, size=SIZE, sorts=SORTS)


def page(context: Context, task: str, step: int | None = None, part: int | None = None) -> Page:
    """Return the chains of a task; see `task_view`."""
    view = task_view(context.run.index, task, step, part, read_setup(context.run.run))
    return context.page("groups", f"Task {view.first.task}", view=view)


@router.get("/runs/{slug}/groups")
def show_all(request: Request, slug: str) -> Response:
    """Return one page of the list of groups."""
    filters = GroupFilters.read(request.query_params)
    return page_response(list_page(context_of(request, slug), filters), "groups.html.jinja")


@router.get("/runs/{slug}/group")
def show(request: Request, slug: str, task: str = "", step: str = "", part: str = "") -> Response:
    """Return the chains of a task."""
    found = page(context_of(request, slug), task, _number(step), _number(part))
    return page_response(found, "group.html.jinja")


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) < 16 else None
