"""What all APIs share, and the plain API."""
