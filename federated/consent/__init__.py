"""What an owner agrees to, and has served."""
