"""What lies below the application: connections and their limits."""
