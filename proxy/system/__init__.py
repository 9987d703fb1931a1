"""The operating system's services, as the rest of the program wants them."""
