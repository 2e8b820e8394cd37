"""What puts the processes together: the command, the demo, the containers."""
