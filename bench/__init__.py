"""What the front door costs: one command for each question, see README.md."""
