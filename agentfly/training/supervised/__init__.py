"""Supervised training: conversations as the rollout tokenises them, one training loop, resumable runs, export.

The quickstart's warm start and `agentfly sft` build their examples and take their steps here.
"""
