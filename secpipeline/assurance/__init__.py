"""What people look at: pictures, the report, and the demo's table."""
