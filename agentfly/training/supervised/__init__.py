"""Supervised training: conversations as the rollout tokenises them, one training loop, resumable runs, export.

Both `agentfly sft` and the quickstart's warm start are built on it.
"""
