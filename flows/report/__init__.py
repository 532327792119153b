"""What people take from a record: the page, the terminal, tables and summaries, exports, and a recipe written into a folder."""
