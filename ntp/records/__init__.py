"""Values and their files. They load without torch and start no process."""
