"""Campaigns as MCP tools: agents of other programs read a campaign, hand in trials and wait for their outcomes."""
