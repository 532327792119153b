"""The judge inside the trust boundary: everything that decides a score."""
