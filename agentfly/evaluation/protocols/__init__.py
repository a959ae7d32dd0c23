"""Protocols of public benchmarks: their prompts, judges and averages, so that figures stand beside published ones."""

from agentfly.evaluation.protocols.base import JudgedProtocol, MeasuredProtocol, Protocol
from agentfly.evaluation.protocols.registry import PROTOCOLS, find_protocol

__all__ = ["PROTOCOLS", "JudgedProtocol", "MeasuredProtocol", "Protocol", "find_protocol"]
