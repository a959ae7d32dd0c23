"""The list of groups, and the chains of one task with their rewards and advantages."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from agentfly.viewer.chain.setup import read_setup
from agentfly.viewer.groups.listed import SIZE, SORTS, GroupFilters, list_groups
from agentfly.viewer.groups.task import task_view
from agentfly.viewer.pages.context import open_run, run_page
from agentfly.viewer.web import page_response

router = APIRouter()


@router.get("/runs/{slug}/groups")
def show_all(request: Request, slug: str) -> Response:
    """Return one page of the list of groups."""
    run, state = open_run(request, slug)
    filters = GroupFilters.read(request.query_params)
    groups = list_groups(run.index, filters)
    values = {"groups": groups, "filters": filters, "size": SIZE, "sorts": SORTS}
    return page_response(run_page(request, run, state, "groups", "Groups", **values), "groups.html.jinja")


@router.get("/runs/{slug}/group")
def show(request: Request, slug: str, task: str = "", step: str = "", part: str = "") -> Response:
    """Return the chains of a task."""
    run, state = open_run(request, slug)
    view = task_view(run.index, task, _number(step), _number(part), read_setup(run.run))
    page = run_page(request, run, state, "groups", f"Task {view.first.task}", view=view)
    return page_response(page, "group.html.jinja")


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) < 16 else None
