"""The report page of a campaign: one self-contained HTML file. See README.md."""
