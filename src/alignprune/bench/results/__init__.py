"""What runs stored: found again, measured, compared, shown."""
