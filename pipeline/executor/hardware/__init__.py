"""What this machine has and how busy it is; pins threads to its cores."""
