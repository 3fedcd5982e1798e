"""The first view: what is in the folder, what to try, and the demo one click away."""
