"""What result files hold, as rows and values."""
