"""The stream filter: pictures in, the same pictures with an effect out."""
