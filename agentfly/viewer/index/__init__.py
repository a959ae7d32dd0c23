"""The index of a run: one row for each chain in an SQLite file, kept up to date while the run goes on."""

from agentfly.viewer.index.index import Index
from agentfly.viewer.index.query import Filters, Row
from agentfly.viewer.index.table import Place, Table

__all__ = ["Filters", "Index", "Place", "Row", "Table"]
