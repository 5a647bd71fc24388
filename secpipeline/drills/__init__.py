"""Attack drills: break a throwaway copy in every known way and show that each break is refused."""
