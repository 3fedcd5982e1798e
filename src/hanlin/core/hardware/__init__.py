"""Hardware as torch tells of it: kinds of devices. Nothing heavy is imported until a function is called."""
