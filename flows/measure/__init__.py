"""Measuring programs outside a campaign, and checking what a campaign recorded."""
