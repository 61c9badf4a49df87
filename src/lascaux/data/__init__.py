"""What models learn from and are tested on."""
