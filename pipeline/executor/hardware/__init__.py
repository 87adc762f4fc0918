"""What this machine has, how busy it is, and threads pinned to its cores."""
