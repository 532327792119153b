"""Scripts, style and templates that build.py puts inline into the page."""
