"""The paper's released records and analyses."""
